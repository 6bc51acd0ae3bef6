"""The per-host daemon: it leases a pod subnet and makes every other host's pods reachable."""


class FlanneldError(Exception):
    """Root of every error a user can meet; its message is one line that names the value and what was expected."""
