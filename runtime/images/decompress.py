"""Archives as they travel, made plain: gzip, zstd, bzip2, xz, told apart by their first bytes; must not know what is in them.

What a client or registry says about the compression is often wrong, and Docker does not ask either. Output is bounded per read, so
that a bomb costs what its reader takes; `runtime.images.limits` says how much that is.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import BinaryIO, Protocol, cast

import zstandard

from runtime.images.limits import BadArchive

READ_BYTES = 256 << 10
CHUNK_BYTES = 1 << 20
"""The most that one step yields."""
_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00"
_MAGIC_BYTES = 6
_ZSTD_WINDOW_BYTES = 128 << 20
"""The decompressor's memory; what `zstd --ultra -22` needs."""


class Decompressor(Protocol):
    """What bz2, lzma and isal agree on."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflate:
    """zlib in the shape of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_gzip: Callable[[], Decompressor] = _Inflate
_DAMAGE: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, zstandard.ZstdError)
with suppress(ImportError):  # there are wheels for x86_64 and aarch64 alone
    from isal import igzip_lib

    _gzip = partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP)
    _DAMAGE += (cast("type[Exception]", igzip_lib.IsalError),)

_MEMBERS: dict[bytes, Callable[[], Decompressor]] = {
    _GZIP: _gzip,
    _BZIP2: bz2.BZ2Decompressor,
    _XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_ZSTD_WINDOW_BYTES),
}


def compression(head: bytes) -> str:
    """What the first bytes of a file (six are enough) say: gzip, zstd, bzip2, xz, or "": none of these."""
    names = {_GZIP: "gzip", _ZSTD: "zstd", _BZIP2: "bzip2", _XZ: "xz"}
    return next((name for magic, name in names.items() if head.startswith(magic)), "")


def decompressed(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The plain bytes, in pieces of at most CHUNK_BYTES; `read(n)` gives what there is, b"" at the end. Raises BadArchive."""
    head = read(READ_BYTES)
    while len(head) < _MAGIC_BYTES and (more := read(READ_BYTES)):
        head += more
    try:
        if head.startswith(_ZSTD):
            yield from _zstd(head, read)
            return
        for magic, begin in _MEMBERS.items():
            if head.startswith(magic):
                yield from _members(head, read, begin)
                return
    except _DAMAGE as error:
        raise BadArchive(f"the compressed data is damaged: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise BadArchive(f"the compressed data is damaged: {error}") from error  # bz2 has no error of its own
    while head:
        yield head
        head = read(CHUNK_BYTES)


def _members(head: bytes, read: Callable[[int], bytes], begin: Callable[[], Decompressor]) -> Iterator[bytes]:
    """gzip, bzip2 and xz files may be several, one after the other, and padded with zeros."""
    data = head
    while data := data or read(READ_BYTES):
        if not data.strip(b"\0"):
            data = b""
            continue
        decompressor = begin()
        while not decompressor.eof:
            plain = decompressor.decompress(data, CHUNK_BYTES)
            data = b""
            if plain:
                yield plain
            if decompressor.needs_input and not decompressor.eof and not (data := read(READ_BYTES)):
                raise BadArchive("the compressed data ends early")
        data = decompressor.unused_data


class _Reading(io.RawIOBase):
    """What zstandard reads from."""

    def __init__(self, head: bytes, read: Callable[[int], bytes]) -> None:
        self._head, self._read = head, read

    def read(self, size: int = -1) -> bytes:
        data = self._head or self._read(READ_BYTES if size < 0 else size)
        self._head = b""
        return data


def _zstd(head: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    source = cast("BinaryIO", _Reading(head, read))
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    with decompressor.stream_reader(source, read_size=READ_BYTES, read_across_frames=True) as reader:
        while plain := reader.read(CHUNK_BYTES):
            yield plain
