"""Labs: many hosts on one machine, each a set of namespaces, joined as a topology file describes."""
