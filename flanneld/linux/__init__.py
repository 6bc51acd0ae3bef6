"""The kernel edge: the only place with network system calls."""
