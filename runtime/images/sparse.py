"""Where the data of sparse files belongs, in the four ways that GNU tar has written it (GNU tar's manual, "Sparse Formats").

Must not know the data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from runtime.images.limits import BadArchive, shown

_BLOCK = 512
_PIECES = 1_000_000
"""Holes that a file may have."""
Extents = tuple[tuple[int, int], ...]


def old_gnu(block: bytes, read: Callable[[int], bytes]) -> Extents:
    """The map of an entry of type S: four pieces in its header, 21 in each block that follows."""
    pieces = [_octal_pair(block, 386 + 24 * index) for index in range(4)]
    more, real_size = block[482], _octal(block[483:495])
    while more:
        block = read(_BLOCK)
        pieces += [_octal_pair(block, 24 * index) for index in range(21)]
        more = block[504]
        _bounded(len(pieces))
    return _checked([piece for piece in pieces if piece != (0, 0)], real_size)


def pax(records: Mapping[bytes, bytes], read: Callable[[int], bytes]) -> Extents | None:
    """The map of an entry with pax records of version 0.0, 0.1 or 1.0, whose map `read` takes from its data; None: not sparse."""
    real_size = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
    if real_size is None:
        return None
    if records.get(b"GNU.sparse.major") == b"1":
        numbers = _leading_numbers(read)
    elif b"GNU.sparse.map" in records:
        numbers = _integers(records[b"GNU.sparse.map"].split(b","))
    else:
        offsets = _integers(records.get(b"GNU.sparse.offset", b"").split(b",")[:-1])
        lengths = _integers(records.get(b"GNU.sparse.numbytes", b"").split(b",")[:-1])
        numbers = [number for pair in zip(offsets, lengths, strict=False) for number in pair]
    return _checked(list(zip(numbers[::2], numbers[1::2], strict=False)), _integers([real_size])[0])


def _leading_numbers(read: Callable[[int], bytes]) -> list[int]:
    """Version 1.0: a line with the count, a line a number, filled up to a block."""
    lines: list[bytes] = []
    rest = b""
    wanted = 1
    while len(lines) < wanted:
        rest += read(_BLOCK)
        *found, rest = rest.split(b"\n")
        lines += found
        if lines:
            wanted = 1 + 2 * _bounded(_integers(lines[:1])[0])
        if len(rest) > _BLOCK:
            raise BadArchive("a sparse file's map is damaged")
    return _integers(lines[1:wanted])


def _integers(texts: Iterable[bytes]) -> list[int]:
    numbers = []
    for text in texts:
        if not text.isdigit() or len(text) > 19:
            raise BadArchive(f"{shown(text)} in a sparse file's map, expected a number")
        numbers.append(int(text))
    return numbers


def _octal_pair(block: bytes, at: int) -> tuple[int, int]:
    return _octal(block[at : at + 12]), _octal(block[at + 12 : at + 24])


def _octal(field: bytes) -> int:
    if field[0] & 0x80:
        return int(struct.unpack(">Q", field[4:])[0])
    digits = field.partition(b"\0")[0].strip()
    try:
        return int(digits or b"0", 8)
    except ValueError:
        raise BadArchive(f"{shown(field)} in a sparse file's map, expected an octal number") from None


def _bounded(count: int) -> int:
    if count > _PIECES:
        raise BadArchive(f"a sparse file of {count} pieces, expected at most {_PIECES}")
    return count


def _checked(pieces: list[tuple[int, int]], real_size: int) -> Extents:
    """The pieces in order, without overlap, within the file, and at the end an empty one that says how long it is."""
    _bounded(len(pieces))
    pieces.append((real_size, 0))
    for (offset, length), (following, _) in pairwise(pieces):
        if offset + length > following:
            raise BadArchive("a sparse file's map is out of order")
    return tuple(pieces)
