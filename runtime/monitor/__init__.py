"""The monitor: a small program in C that is the parent of one container, and what is said between it and the engine."""
