"""Labs: many hosts on one machine, each a set of namespaces, joined as a topology file describes."""


class LabError(Exception):
    """Root of every error a user of a lab can meet; its message is one line that names the value and what was expected."""
