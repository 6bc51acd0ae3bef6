"""Writes tar archives: POSIX ustar, with a pax header only where a name, a number or an attribute does not fit; the same entries
are always the same bytes. Must not know where entries come from.
"""

from __future__ import annotations

from runtime.images.tar_reader import BLOCK, DIRECTORY, FILE, XATTR, Entry

_RECORD_BYTES = 10240
"""What an archive's length is a multiple of, by tradition."""
_NAME_BYTES, _PREFIX_BYTES = 100, 155
_MOST_ID, _MOST_SIZE = 0o7777777, 0o77777777777
_NS = 1_000_000_000


def end_of(written: int) -> bytes:
    """What ends an archive of so many bytes: two blocks of zeros, and more up to a whole record."""
    return bytes(2 * BLOCK + -(written + 2 * BLOCK) % _RECORD_BYTES)


def padding(size: int) -> bytes:
    """What follows data of this size."""
    return bytes(-size % BLOCK)


def header(entry: Entry) -> bytes:
    """What comes before an entry's data. Times are cut to seconds; `extents` are not written: a sparse file is packed whole."""
    records: dict[bytes, bytes] = {XATTR + key: value for key, value in entry.xattrs}
    name, prefix = _split(entry.name)
    if entry.name not in (name, prefix + b"/" + name):
        records[b"path"] = entry.name
    if len(entry.link) > _NAME_BYTES:
        records[b"linkpath"] = entry.link
    for key, number, most in ((b"uid", entry.uid, _MOST_ID), (b"gid", entry.gid, _MOST_ID), (b"size", entry.size, _MOST_SIZE)):
        if number > most:
            records[key] = b"%d" % number
    block = _block(entry, name, prefix)
    return _pax(name, records) + block if records else block


def directory(name: str) -> bytes:
    """A header for archives that we invent: a directory of 1970, root's."""
    return header(Entry(name.encode() + b"/", DIRECTORY, 0o755, 0, 0, 0, 0))


def file(name: str, size: int) -> bytes:
    """A header for archives that we invent: a file of 1970, root's."""
    return header(Entry(name.encode(), FILE, 0o644, 0, 0, size, 0))


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Name and prefix; the name cut short when both together cannot hold it."""
    if len(path) <= _NAME_BYTES:
        return path, b""
    at = path.find(b"/", len(path) - _NAME_BYTES - 1, len(path) - 1)
    if 0 < at <= _PREFIX_BYTES:
        return path[at + 1 :], path[:at]
    return path[:_NAME_BYTES], b""


def _block(entry: Entry, name: bytes, prefix: bytes) -> bytes:
    seconds = max(0, min(entry.mtime_ns // _NS, _MOST_SIZE))
    uid, gid = (number if number <= _MOST_ID else 0 for number in (entry.uid, entry.gid))
    size = entry.size if entry.size <= _MOST_SIZE else 0
    major, minor = (number & _MOST_ID for number in entry.device)
    block = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%sustar\00000%s%07o\0%07o\0%s" % (
        name.ljust(_NAME_BYTES, b"\0"),
        entry.mode,
        uid,
        gid,
        size,
        seconds,
        entry.type,
        entry.link[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"),
        bytes(64),
        major,
        minor,
        prefix.ljust(_PREFIX_BYTES + 12, b"\0"),
    )
    return b"%s%06o\0 %s" % (block[:148], sum(block), block[156:])


def _pax(name: bytes, records: dict[bytes, bytes]) -> bytes:
    content = b"".join(_record(key, value) for key, value in sorted(records.items()))
    entry = Entry(b"PaxHeaders/" + name[-80:].strip(b"/"), b"x", 0o644, 0, 0, len(content), 0)
    return _block(entry, entry.name, b"") + content + padding(len(content))


def _record(key: bytes, value: bytes) -> bytes:
    """ "LENGTH KEY=VALUE\\n", where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
