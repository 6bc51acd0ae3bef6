"""Containers: what they are to be, what they do, and what became of them."""
