"""Reads tar archives: POSIX ustar and pax (pax(1)), GNU's long names, numbers and sparse files, star's extended attributes; must
not know where entries go.

A layer is many small files, and this reads several times as many entries a second as `tarfile`. Names stay bytes, as the archive
and the kernel have them. Everything that an archive may claim is bounded here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

import msgspec

from runtime.images import sparse
from runtime.images.limits import BadArchive, shown

BLOCK = 512
FILE, HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_OLD_FILE, _CONTIGUOUS, _GNU_SPARSE = b"\0", b"7", b"S"
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_WITHOUT_DATA = frozenset((HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO))
_PLAIN = _WITHOUT_DATA | {FILE}
_EXTENSIONS = frozenset((_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK))
_FILL = b"\0 "
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_EXTENSION_BYTES = 1 << 20
"""The longest pax header or long name; Go's reader has the same."""
XATTR = b"SCHILY.xattr."
"""Before the names of extended attributes, in pax headers."""
_ZEROS = bytes(BLOCK)
_NOBODY = (1 << 32) - 1
"""The id that chown(2) takes for "leave it"."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One member of an archive."""

    name: bytes
    """As it is there: perhaps absolute, with "..", or with a slash at its end."""
    type: bytes
    """One of the constants above."""
    mode: int
    uid: int
    gid: int
    size: int
    """Bytes of data that follow; 0 for all but files."""
    mtime_ns: int
    link: bytes = b""
    """Where a hard or symbolic link points."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    extents: tuple[tuple[int, int], ...] | None = None
    """Of a sparse file: (offset, length) of each piece of the data that follows; the last says how long the file is."""


class TarReader:
    """Goes through an archive once, entry by entry; after each, `data` gives what belongs to it, and the rest is skipped."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        """`chunks`: the archive, uncompressed, in pieces of any size."""
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self._left = 0
        """Bytes of the present entry's data, or with `_padding` of its last block, not yet read."""
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, up to the archive's end; what is behind it is read, too. Raises BadArchive."""
        while (block := self._block()) is not None:
            entry = _header(block)
            if entry.type not in _PLAIN:
                entry = self._extended(entry, block)
            elif entry.size:
                self._left, self._padding = entry.size, -entry.size % BLOCK
            yield entry
        for _ in self._chunks:
            pass

    def whole(self) -> memoryview | None:
        """All of the present entry's data, once, if it is at hand in one piece; else None, and `data` has it."""
        end = self._at + self._left
        if end > len(self._chunk):
            return None
        piece = memoryview(self._chunk)[self._at : end]
        self._at, self._left = end, 0
        return piece

    def data(self) -> Iterator[memoryview]:
        """The present entry's data, in pieces, once."""
        while self._left:
            if self._at == len(self._chunk):
                self._next_chunk()
            piece = memoryview(self._chunk)[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            yield piece

    def _next_chunk(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise BadArchive("the archive ends in the middle of an entry")
        self._chunk, self._at = chunk, 0

    def _exactly(self, size: int) -> bytes:
        """The next bytes; raises BadArchive when there are fewer."""
        end = self._at + size
        if end <= len(self._chunk):
            found = self._chunk[self._at : end]
            self._at = end
            return found
        pieces = []
        while size:
            if self._at == len(self._chunk):
                self._next_chunk()
            pieces.append(self._chunk[self._at : self._at + size])
            self._at += len(pieces[-1])
            size -= len(pieces[-1])
        return b"".join(pieces)

    def _block(self) -> bytes | None:
        """The next header's block; None: the archive's end, with or without the blocks of zeros that should be there."""
        at = self._at + self._left + self._padding
        if (end := at + BLOCK) <= len(self._chunk):
            self._at, self._left, self._padding = end, 0, 0
            block = self._chunk[at:end]
        else:
            for _ in self.data():
                pass
            self._exactly(self._padding)
            self._padding = 0
            while self._at == len(self._chunk):
                if (chunk := next(self._chunks, None)) is None:
                    return None
                self._chunk, self._at = chunk, 0
            block = self._exactly(BLOCK)
        return None if block == _ZEROS else block

    def _extended(self, entry: Entry, block: bytes) -> Entry:
        """The entry that these headers, of which `entry` is the first and the last has `block`, are about."""
        pax: dict[bytes, bytes] = {}
        while entry.type in _EXTENSIONS:
            content = self._extension(entry.size)
            if entry.type == _LONG_NAME:
                pax[b"path"] = content.partition(b"\0")[0]
            elif entry.type == _LONG_LINK:
                pax[b"linkpath"] = content.partition(b"\0")[0]
            elif entry.type == _PAX:
                pax |= _pax_records(content)
            # A global header says what holds for the whole archive: git's commit id. Docker does not heed it either.
            following = self._block()
            if following is None:
                raise BadArchive("the archive ends with a header that belongs to no entry")
            block = following
            entry = _header(block)
        return self._finish(entry, block, pax)

    def _extension(self, size: int) -> bytes:
        if size > _EXTENSION_BYTES:
            raise BadArchive(f"a header of {size} bytes, expected at most {_EXTENSION_BYTES}")
        content = self._exactly(size)
        self._exactly(-size % BLOCK)
        return content

    def _finish(self, entry: Entry, block: bytes, pax: dict[bytes, bytes]) -> Entry:
        """The entry with what its extensions say; afterwards its data is next."""
        name = pax.get(b"GNU.sparse.name", pax.get(b"path", entry.name))
        link = pax.get(b"linkpath", entry.link)
        if b"\0" in name or b"\0" in link:
            raise BadArchive(f"{shown(name)} has a zero byte in its name")
        kind, extents = entry.type, None
        if kind == _GNU_SPARSE:
            kind, extents = FILE, sparse.old_gnu(block, self._exactly)
        elif kind in (_OLD_FILE, _CONTIGUOUS):
            kind = DIRECTORY if kind == _OLD_FILE and name.endswith(b"/") else FILE
        elif kind not in _PLAIN:
            raise BadArchive(f"{shown(name)} is of the unknown type {shown(kind)}")
        if kind == FILE:
            size = _decimal(pax, b"size", entry.size)
            self._left, self._padding = size, -size % BLOCK
            extents = extents or sparse.pax(pax, self._exactly_of_data)
        uid, gid = _owner(name, _decimal(pax, b"uid", entry.uid), _decimal(pax, b"gid", entry.gid))
        xattrs = tuple((key[len(XATTR) :], value) for key, value in pax.items() if key.startswith(XATTR))
        mtime_ns = _time_ns(pax, entry.mtime_ns)
        return Entry(name, kind, entry.mode, uid, gid, self._left, mtime_ns, link, entry.device, xattrs, extents)

    def _exactly_of_data(self, size: int) -> bytes:
        if size > self._left:
            raise BadArchive("a sparse file's map is longer than its data")
        self._left -= size
        return self._exactly(size)


def _header(block: bytes) -> Entry:
    """What one block says, by itself; raises BadArchive."""
    name, *fields, kind, link, magic, version, _, _, major, minor, prefix = _HEADER.unpack(block)
    try:
        mode, uid, gid, size, mtime, checksum = [int(field.rstrip(_FILL), 8) for field in fields]
    except ValueError:
        mode, uid, gid, size, mtime, checksum = map(_unusual_number, fields)
    # The sum of all bytes, with the checksum's own field counted as eight spaces. Adler-32's lower half is one more than a sum of
    # bytes, modulo a prime, and thirty times as fast as `sum`.
    if (zlib.adler32(block) & 0xFFFF) != (1 + checksum - 256 + sum(fields[5])) % 65521:
        raise BadArchive("a header's checksum is wrong: this is no tar archive, or a damaged one")
    name = name.partition(b"\0")[0]
    # GNU's older headers have times where ustar has the prefix, and say "ustar  \0".
    if magic == b"ustar\0" and version != b" \0" and prefix[0] and kind not in _EXTENSIONS:
        name = prefix.partition(b"\0")[0] + b"/" + name
    if size < 0:
        raise BadArchive(f"{shown(name)} has a negative size")
    if uid or gid:
        _owner(name, uid, gid)
    mtime_ns = mtime * 1_000_000_000
    if kind == FILE:
        return Entry(name, kind, mode & 0o7777, uid, gid, size, mtime_ns)
    if kind in _WITHOUT_DATA:
        size = 0
    device = (_unusual_number(major), _unusual_number(minor)) if kind in (CHARACTER_DEVICE, BLOCK_DEVICE) else (0, 0)
    return Entry(name, kind, mode & 0o7777, uid, gid, size, mtime_ns, link.partition(b"\0")[0], device)


def _owner(name: bytes, uid: int, gid: int) -> tuple[int, int]:
    if not (0 <= uid < _NOBODY and 0 <= gid < _NOBODY):
        raise BadArchive(f"{shown(name)} has the owner {uid}:{gid}, expected numbers from 0 to {_NOBODY - 1}")
    return uid, gid


def _unusual_number(field: bytes) -> int:
    """Octal digits, however padded, or GNU's base 256, whose first bit is set and whose second is the sign."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.partition(b"\0")[0].strip() or b"0"
    try:
        return int(digits, 8)
    except ValueError:
        raise BadArchive(
            f"{shown(field)} in a header, expected an octal number: this is no tar archive, or a damaged one"
        ) from None


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """Records "LENGTH KEY=VALUE\\n"; the length is the whole record's. An empty value takes back an earlier one."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 20)
        digits = content[at:space]
        end = at + int(digits) if space > at and digits.isdigit() else 0
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if end <= space or not equals or content[end - 1 : end] != b"\n":
            raise BadArchive("a pax header is damaged")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            records[key] = records.get(key, b"") + value + b","
        else:
            records[key] = value
        at = end
    return {key: value for key, value in records.items() if value or key.startswith(XATTR)}


def _decimal(pax: dict[bytes, bytes], key: bytes, otherwise: int) -> int:
    text = pax.get(key)
    if text is None:
        return otherwise
    if not text.isdigit() or len(text) > 19:
        raise BadArchive(f"{shown(text)} in a pax header, expected a number")
    return int(text)


def _time_ns(pax: dict[bytes, bytes], otherwise: int) -> int:
    text = pax.get(b"mtime")
    if text is None:
        return otherwise
    try:
        return int(Decimal(text[:40].decode()) * 1_000_000_000)
    except (InvalidOperation, UnicodeDecodeError, OverflowError, ValueError):
        raise BadArchive(f"{shown(text)} in a pax header, expected a time") from None
