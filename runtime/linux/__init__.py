"""The container engine's kernel edge: the only place of it with system calls that Python has no function for."""
