"""What is in an archive of images, read once from a stream: its files become blobs, known by the names that they had there.

Nothing is unpacked by name: names and links are keys of a table, whatever they say. Must not know what the files mean.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from runtime.errors import NotFound
from runtime.images import tar_reader
from runtime.images.content import Content
from runtime.images.decompress import compression, decompressed
from runtime.images.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from runtime.images.limits import BadArchive, Limits, limited
from runtime.images.tar_reader import Entry, TarReader

MOST_MEMBERS = 100_000
MOST_DOCUMENT_BYTES = 8 << 20
"""Of a manifest, an index or a config."""
_BLOB = re.compile(r"blobs/(sha256)/([0-9a-f]{64})")
_DEEPEST_LINK = 8
_MAGIC_BYTES = 6
_MEDIA_TYPES = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


@dataclass(frozen=True, slots=True)
class Members:
    """One archive's files."""

    content: Content
    digests: dict[str, str] = field(default_factory=dict)
    """Name -> blob."""
    links: dict[str, str] = field(default_factory=dict)
    """Name -> name; older archives have a layer once and links to it."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self.digests

    def digest(self, name: str) -> str:
        """The blob of a file, through links; raises NotFound."""
        path = posixpath.normpath(name)
        for _ in range(_DEEPEST_LINK):
            if found := self.digests.get(path):
                return found
            path = self.links.get(path, "")
        raise NotFound(f"the archive has no file {name[:200]!r}")

    def document(self, name: str) -> bytes:
        """A small file; raises NotFound, BadArchive."""
        return self.blob(self.digest(name))

    def blob(self, digest: str) -> bytes:
        """A small blob; raises NotFound, BadArchive."""
        if self.content.size(digest) > MOST_DOCUMENT_BYTES:
            raise BadArchive(f"{digest} has more than {MOST_DOCUMENT_BYTES} bytes, too many for what it should be")
        return self.content.read(digest)

    def layer(self, name: str) -> Descriptor:
        """A file that is a layer; raises NotFound."""
        digest = self.digest(name)
        with self.content.path(digest).open("rb") as file:
            kind = compression(file.read(_MAGIC_BYTES))
        return Descriptor(media_type=_MEDIA_TYPES.get(kind, OCI_LAYER), digest=digest, size=self.content.size(digest))


def read_members(content: Content, source: BinaryIO) -> Members:
    """Take in an archive, compressed or not; blocking. Raises BadArchive, DigestMismatch, OSError; blobs that came by then stay."""
    members = Members(content)
    taken = 0

    def read(size: int) -> bytes:
        nonlocal taken
        data = source.read(size)
        taken += len(data)
        return data

    reader = TarReader(_all(limited(decompressed(read), lambda: taken, Limits())))
    for count, entry in enumerate(reader):
        if count >= MOST_MEMBERS:
            raise BadArchive(f"the archive has more than {MOST_MEMBERS} files")
        _take(members, entry, reader)
    return members


def _all(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, of which there is at least one: a client that sends nothing has sent no archive."""
    first = next(chunks, None)
    if first is None:
        raise BadArchive("the archive is empty")
    yield first
    yield from chunks


def _take(members: Members, entry: Entry, reader: TarReader) -> None:
    name = posixpath.normpath(entry.name.decode(errors="surrogateescape").lstrip("/"))
    link = entry.link.decode(errors="surrogateescape")
    if entry.type == tar_reader.SYMLINK:
        members.links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    elif entry.type == tar_reader.HARD_LINK:
        members.links[name] = posixpath.normpath(link.lstrip("/"))
    elif entry.type == tar_reader.FILE:
        if entry.extents is not None:
            raise BadArchive(f"{name[:100]!r} is a sparse file, which no archive of images has")
        members.digests[name] = _keep(members.content, name, reader)


def _keep(content: Content, name: str, reader: TarReader) -> str:
    named = f"sha256:{found[2]}" if (found := _BLOB.fullmatch(name)) else None
    if named is not None and content.has(named):
        return named
    with content.writer(named) as writer:
        for piece in reader.data():
            writer.write(piece)
        return writer.commit()
