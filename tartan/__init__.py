"""The front door: the `tartan` command; thin, every sub-command imports what it needs when it runs."""
