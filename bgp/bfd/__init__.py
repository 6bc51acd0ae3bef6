"""BFD: a neighbour that cannot be reached any more is noticed within some hundred milliseconds; must not know BGP."""
