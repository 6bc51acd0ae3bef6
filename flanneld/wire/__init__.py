"""Bytes <-> values, sans-IO: nothing here opens a socket; standard library only."""
