"""A map of the kernel's and what we have put into it, so that only differences are written; must not know what it is for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from flanneld.kernel import KernelError
from flanneld.linux.bpf import BpfMap


class Table:
    """A map to which nobody else adds keys. The programs may change values: what is there by its key stays as it is."""

    def __init__(self, bpf_map: BpfMap) -> None:
        self._map = bpf_map
        self._put: dict[bytes, bytes] = {}

    def add(self, wanted: Mapping[bytes, bytes]) -> None:
        """Put in what we have not put there yet, or with another value. Raises KernelError; the next call goes on from there."""
        new = {key: value for key, value in wanted.items() if self._put.get(key) != value}
        self._write(self._map.update, new)
        self._put.update(new)

    def narrow(self, wanted: Collection[bytes]) -> None:
        """Take everything else out. Raises KernelError; the next call goes on from there."""
        gone = self._put.keys() - set(wanted)
        self._write(self._map.delete, gone)
        for key in gone:
            del self._put[key]

    def _write(self, write: Callable[..., None], what: Collection[bytes]) -> None:
        try:
            if what:
                write(what)
        except KernelError:  # halfway: only the kernel knows where
            self._put = self._map.entries()
            raise
