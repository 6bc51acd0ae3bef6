"""BPF objects through libbpf and ctypes: compiled programs loaded, their maps read and written; must not know what they do.

Nothing is pinned: programs stay in the kernel for as long as something holds them, be it only the filter that runs them. Sources:
bpf/libbpf.h, bpf/bpf.h (version 1.0 or later, whose calls return a negative errno), linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection, Mapping
from functools import cache
from typing import Self

from flanneld import FlanneldError
from flanneld.kernel import KernelError

LIBRARY = "libbpf.so.1"
ENOTSUPP = 524
"""linux/errno.h: not for user space, yet it is what the kernel says of a map that has no batches."""
NO_BATCHES = (errno.EINVAL, ENOTSUPP, errno.EOPNOTSUPP)
"""EINVAL: before Linux 5.6."""
BATCH = 1024
"""Entries in one call."""
LOG_LINE = 1024

_Print = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
"""libbpf_print_fn_t."""
_WARNING = 0


class BpfMissing(FlanneldError):
    """There is no libbpf here."""


class BpfMap:
    """One map, of keys and values of fixed sizes; its object owns the descriptor."""

    def __init__(self, name: str, fd: int, key_size: int, value_size: int) -> None:
        self._name = name
        self._fd = fd
        self._key_size = key_size
        self._value_size = value_size

    def update(self, entries: Mapping[bytes, bytes]) -> None:
        """Put these in, each in the place of what its key had; raises KernelError, and some may be in then."""
        keys = list(entries)
        for start in range(0, len(keys), BATCH):
            chunk = keys[start : start + BATCH]
            count = ctypes.c_uint32(len(chunk))
            values = b"".join(entries[key] for key in chunk)
            code = _library().bpf_map_update_batch(self._fd, b"".join(chunk), values, ctypes.byref(count), None)
            if -code in NO_BATCHES:
                for key in chunk:
                    self._check(_library().bpf_map_update_elem(self._fd, key, entries[key], 0))
            else:
                self._check(code)

    def delete(self, keys: Collection[bytes]) -> None:
        """Take these out; those that are not there are no matter. Raises KernelError."""
        for key in keys:
            code = _library().bpf_map_delete_elem(self._fd, key)
            if code != -errno.ENOENT:
                self._check(code)

    def lookup(self, key: bytes) -> bytes | None:
        """The key's value, None when there is none; raises KernelError."""
        return self._lookup(key, self._value_size)

    def lookup_per_cpu(self, key: bytes) -> tuple[bytes, ...]:
        """The same of a map that has a value for every possible processor."""
        stride = self._value_size + 7 & ~7
        found = self._lookup(key, stride * _library().libbpf_num_possible_cpus()) or b""
        return tuple(found[start : start + self._value_size] for start in range(0, len(found), stride))

    def entries(self) -> dict[bytes, bytes]:
        """All that is there, read one by one; raises KernelError."""
        found: dict[bytes, bytes] = {}
        before, key = None, ctypes.create_string_buffer(self._key_size)
        while (code := _library().bpf_map_get_next_key(self._fd, before, key)) == 0:
            before = key.raw
            value = self.lookup(before)
            if value is not None:
                found[before] = value
        if code != -errno.ENOENT:
            self._check(code)
        return found

    def _lookup(self, key: bytes, size: int) -> bytes | None:
        value = ctypes.create_string_buffer(size)
        code = _library().bpf_map_lookup_elem(self._fd, key, value)
        if code == -errno.ENOENT:
            return None
        self._check(code)
        return value.raw

    def _check(self, code: int) -> None:
        if code < 0:
            raise _refused(-code, f"bpf map {self._name}")


class BpfObject:
    """A compiled object, loaded: its programs have passed the kernel's verifier, its maps are made. Closing it lets go of both.

    Raises BpfMissing without libbpf, KernelError when the kernel refuses (EPERM: not root).
    """

    def __init__(self, image: bytes) -> None:
        library = _library()
        _said.clear()
        self._handle: int | None = library.bpf_object__open_mem(image, len(image), None)
        code = library.bpf_object__load(self._handle) if self._handle else -ctypes.get_errno()
        if code < 0:
            self.close()
            raise _refused(-code, "bpf object", *_said[:1])

    def program(self, name: str) -> int:
        """The descriptor of that program, the object's own; raises KernelError (ENOENT)."""
        return int(_library().bpf_program__fd(self._found(name, "program")))

    def map(self, name: str) -> BpfMap:
        """The map of that name; raises KernelError (ENOENT)."""
        library, found = _library(), self._found(name, "map")
        sizes = library.bpf_map__key_size(found), library.bpf_map__value_size(found)
        return BpfMap(name, library.bpf_map__fd(found), *sizes)

    def close(self) -> None:
        """Once is enough, twice does no harm; maps and descriptors are of no use after it."""
        if self._handle:
            _library().bpf_object__close(self._handle)
        self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self, name: str, kind: str) -> int:
        find = getattr(_library(), f"bpf_object__find_{kind}_by_name")
        found: int | None = find(self._handle, name.encode()) if self._handle else None
        if not found:
            raise _refused(errno.ENOENT, f"bpf {kind} {name}")
        return found


def _refused(code: int, what: str, *said: str) -> KernelError:
    text = "not supported" if code == ENOTSUPP else os.strerror(code).lower()
    return KernelError(code, what, "; ".join((text, *said)))


_said: list[str] = []
"""What libbpf has warned of since the last object was opened. The first says what failed, the rest what else fails with it."""


def _listen(level: int, form: bytes, arguments: int) -> int:
    """Keep what libbpf would print to stderr. `arguments` is a va_list, which is passed as a pointer on all that we run on."""
    if level == _WARNING:
        line = ctypes.create_string_buffer(LOG_LINE)
        ctypes.CDLL(None).vsnprintf(line, ctypes.c_size_t(LOG_LINE), form, ctypes.c_void_p(arguments))
        _said.extend(filter(None, (part.strip() for part in line.value.decode(errors="replace").splitlines())))
    return 0


_listener = _Print(_listen)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise BpfMissing(f"{LIBRARY} is not installed (Debian package libbpf1)") from error
    pointer, text, number, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    for name, result, *arguments in (
        ("bpf_object__open_mem", pointer, text, size, pointer),
        ("bpf_object__load", number, pointer),
        ("bpf_object__close", None, pointer),
        ("bpf_object__find_program_by_name", pointer, pointer, text),
        ("bpf_object__find_map_by_name", pointer, pointer, text),
        ("bpf_program__fd", number, pointer),
        ("bpf_map__fd", number, pointer),
        ("bpf_map__key_size", ctypes.c_uint32, pointer),
        ("bpf_map__value_size", ctypes.c_uint32, pointer),
        ("bpf_map_update_elem", number, number, text, text, ctypes.c_uint64),
        ("bpf_map_update_batch", number, number, text, text, pointer, pointer),
        ("bpf_map_delete_elem", number, number, text),
        ("bpf_map_lookup_elem", number, number, text, pointer),
        ("bpf_map_get_next_key", number, number, text, pointer),
        ("libbpf_num_possible_cpus", number),
        ("libbpf_set_print", pointer, _Print),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(_listener)
    return library
