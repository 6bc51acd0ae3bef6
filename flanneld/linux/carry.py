"""The data plane's loop in C, called through ctypes: compiled where there is a compiler, and done without where there is none.

It runs without Python's lock, and comes back for what is rare: see `native/carry.c`.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

from flanneld import FlanneldError

SOURCE = Path(__file__).with_name("native") / "carry.c"
COMPILERS = ("cc", "gcc", "clang")
OPTIONS = ("-std=gnu11", "-O3", "-shared", "-fPIC")
REASONS = 9
"""How many kinds of drop there are: as the members of `tunnel.switch.Drop`, in their order."""
MOST_ENDPOINTS = 1 << 14
"""That are kept encoded."""

Level: TypeAlias = tuple[int, Mapping[int, tuple[str, int]]]
"""A netmask, and by prefix (or MAC address) the peer's address and port."""


class CarryError(FlanneldError):
    """There is no such library here, and none can be made."""


class Event(IntEnum):
    """Why the loop has come back."""

    WOKEN = 0
    TUN_LOST = 1
    COMPLAIN = 2
    """Packets from the TUN went no further; their sender may be due an answer."""
    FIT = 3
    """The socket has not taken packets."""


class Report(NamedTuple):
    """What an event is about."""

    data: memoryview
    """Packets, one after the other; valid until the loop goes on."""
    size: int
    """Bytes of each, but for a shorter last."""
    packets: int
    why: int
    """Which drop."""
    error: int
    """The socket's errno."""
    peer: tuple[str, int]


class _Endpoint(ctypes.Structure):
    _fields_ = [("ip", ctypes.c_uint32), ("port", ctypes.c_uint16), ("unused", ctypes.c_uint16)]


@lru_cache(MOST_ENDPOINTS)
def _encoded(peer: tuple[str, int]) -> bytes:
    """An `_Endpoint`."""
    return socket.inet_aton(peer[0]) + peer[1].to_bytes(2, "big") + bytes(2)


class _Level(ctypes.Structure):
    _fields_ = [("mask", ctypes.c_uint32), ("first", ctypes.c_uint32), ("count", ctypes.c_uint32), ("unused", ctypes.c_uint32)]


class _Report(ctypes.Structure):
    _fields_ = [
        ("at", ctypes.c_void_p),
        ("total", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("why", ctypes.c_uint32),
        ("error", ctypes.c_uint32),
        ("peer", _Endpoint),
    ]


def built() -> Path:
    """The library for this machine: the one that is here, else compiled now and kept. Raises CarryError."""
    library = SOURCE.parent / platform.machine() / "carry.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        _compile(library)
    return library


def _compile(library: Path) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CarryError(f"{library} is not built, and there is no C compiler: expected one of {', '.join(COMPILERS)}")
    try:
        library.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            made = Path(scratch) / library.name
            done = subprocess.run([compiler, *OPTIONS, "-o", str(made), str(SOURCE)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise CarryError(f"{SOURCE} cannot be compiled: {done.stderr.strip()}")
            made.replace(library)
    except OSError as error:
        raise CarryError(f"{library} cannot be compiled: {str(error.strerror).lower()}") from error


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """Raises CarryError."""
    try:
        found = ctypes.CDLL(str(built()), use_errno=True)
    except OSError as error:
        raise CarryError(f"{built()} cannot be loaded: {error}") from error
    number, whole, pointer = ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p
    found.carry_new.argtypes = [number, number, number, whole, whole, ctypes.c_char_p, number, number, whole]
    found.carry_new.restype = pointer
    found.carry_free.argtypes = [pointer]
    found.carry_peers.argtypes = [pointer, number, pointer, whole, pointer, pointer, whole]
    found.carry_counters.argtypes = [pointer, pointer]
    found.carry_run.argtypes = [pointer, pointer]
    return found


class Carry:
    """One loop. All but `counters` is for one thread, the one that runs it."""

    def __init__(
        self,
        tun: int,
        underlay: int,
        wake: int,
        *,
        prefix: bytes,
        link_size: int,
        strict: bool,
        merge_udp: bool,
        mtu: int,
    ) -> None:
        """Descriptors: the TUN, the underlay's socket, and an eventfd that brings `run` back. Raises CarryError."""
        self._library = _library()
        self._loop = self._library.carry_new(tun, underlay, wake, len(prefix), link_size, prefix, strict, merge_udp, mtu)
        if not self._loop:
            raise CarryError("no memory for the data plane's loop")
        self._report = _Report()
        self._counters = (ctypes.c_uint64 * (2 + REASONS))()

    def close(self) -> None:
        """Free it; nothing may be called any more."""
        self._library.carry_free(self._loop)

    def set_peers(self, peers: Sequence[Level], owners: Sequence[Level]) -> None:
        """From now on send to these, and take from those; raises CarryError when there is no memory for them."""
        for which, levels in enumerate((peers, owners)):
            self._set(which, levels)

    def _set(self, which: int, levels: Sequence[Level]) -> None:
        total = sum(len(found) for _, found in levels)
        # Packets wait meanwhile: with thousands of peers whole arrays take a third of the time.
        keys, endpoints, rows = array("Q"), list[bytes](), (_Level * len(levels))()
        for row, (mask, found) in zip(rows, levels, strict=True):
            row.mask, row.first, row.count = mask, len(keys), len(found)
            ordered = sorted(found)
            keys.extend(ordered)
            endpoints += [_encoded(found[key]) for key in ordered]
        if not self._library.carry_peers(self._loop, which, rows, len(levels), keys.tobytes(), b"".join(endpoints), total):
            raise CarryError(f"no memory for {total} peers")

    def run(self) -> Event:
        """Carry packets until there is something to do here; `report` says what."""
        return Event(self._library.carry_run(self._loop, ctypes.byref(self._report)))

    def report(self) -> Report:
        """What the event that `run` returned last is about."""
        found = self._report
        packets = memoryview((ctypes.c_ubyte * found.total).from_address(found.at)).cast("B")
        ip = socket.inet_ntoa(int(found.peer.ip).to_bytes(4, sys.byteorder))
        return Report(packets, found.size, found.count, found.why, found.error, (ip, socket.ntohs(found.peer.port)))

    def counters(self) -> tuple[int, ...]:
        """Sent, received, then the dropped by reason, since it was made."""
        self._library.carry_counters(self._loop, self._counters)
        return tuple(self._counters)
