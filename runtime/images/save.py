"""Images from the store as one archive, as `docker save` writes it; must not know HTTP.

Two formats in one, which name the same blobs: an OCI image layout (oci-layout, index.json) and Docker's own (manifest.json,
repositories). Blobs are the very bytes that came from a registry; the same images make the same archive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec

from runtime.errors import EngineError, InvalidParameter
from runtime.images import tar_writer
from runtime.images.content import digest_of, hex_of
from runtime.images.image import OCI_INDEX, Descriptor, Image, Manifest
from runtime.images.manifests import read_manifest
from runtime.images.reference import Reference, parse_reference
from runtime.images.store import Images
from runtime.piped import from_thread

_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Saved:
    """One image of an archive."""

    image: Image
    tags: tuple[Reference, ...]
    manifest: Manifest
    manifest_bytes: bytes


def save(images: Images, names: Sequence[str]) -> AsyncIterator[bytes]:
    """The archive of these images; a repository's name means all its tags. Raises NotFound, InvalidParameter at once."""
    tags: dict[str, list[Reference]] = {}
    for name in names:
        for image_id, found in _meant(images, name):
            tags.setdefault(image_id, []).extend(tag for tag in found if tag not in tags.get(image_id, ()))
    return _stream(images, [_saved(images, image_id, tuple(found)) for image_id, found in tags.items()])


def _meant(images: Images, name: str) -> list[tuple[str, list[Reference]]]:
    """Images by id, each with the tags that go along."""
    try:
        reference = parse_reference(name)
    except InvalidParameter:
        return [(images.find(name).id, [])]
    if not reference.tag and not reference.digest:
        every = [(image.id, parse_reference(tag)) for image in images.list() for tag in image.tags]
        if here := [(image_id, [tag]) for image_id, tag in every if tag.repository == reference.repository]:
            return here
    image = images.find(name)
    return [(image.id, [reference] if reference.familiar in image.tags else [])]


def _saved(images: Images, image_id: str, tags: tuple[Reference, ...]) -> _Saved:
    manifest = images.manifest_of(image_id)
    digest = images.came_with(image_id)
    if digest:
        try:
            data = images.content.read(digest)
            original = read_manifest(data, digest)
        except EngineError:
            original = None
        if isinstance(original, Manifest) and original.layers == manifest.layers:
            return _Saved(images.find(image_id), tags, original, data)
    return _Saved(images.find(image_id), tags, manifest, msgspec.json.encode(manifest))


async def _stream(images: Images, saved: Sequence[_Saved]) -> AsyncIterator[bytes]:
    with images.lease():
        async with aclosing(from_thread(_Saving(images, saved).write)) as chunks:
            async for chunk in chunks:
                yield chunk
    for each in saved:
        images.events.tell("image", "save", each.image.id, {**each.image.config.config.labels, "name": each.image.id})


class _Saving:
    """One archive on its way out, in a thread."""

    def __init__(self, images: Images, saved: Sequence[_Saved]) -> None:
        self._content = images.content
        self._saved = saved

    def write(self, out: BinaryIO) -> None:
        """All of it; raises NotFound, OSError."""
        written = 0

        def put(data: bytes) -> None:
            nonlocal written
            out.write(data)
            written += len(data)

        put(tar_writer.directory("blobs") + tar_writer.directory("blobs/sha256"))
        made = {digest_of(saved.manifest_bytes): saved.manifest_bytes for saved in self._saved}
        kept = {saved.image.id for saved in self._saved} | {blob.digest for saved in self._saved for blob in saved.manifest.layers}
        for digest in sorted(made.keys() | kept):
            if digest in made:
                self._file(put, _path(digest), made[digest])
            else:
                self._blob(put, digest)
        for name, document in self._documents().items():
            self._file(put, name, msgspec.json.encode(document))
        out.write(tar_writer.end_of(written))

    def _file(self, put: Any, name: str, data: bytes) -> None:
        put(tar_writer.file(name, len(data)) + data + tar_writer.padding(len(data)))

    def _blob(self, put: Any, digest: str) -> None:
        size = self._content.size(digest)
        put(tar_writer.file(_path(digest), size))
        with self._content.path(digest).open("rb") as file:
            while data := file.read(_COPY_BYTES):
                put(data)
        put(tar_writer.padding(size))

    def _documents(self) -> dict[str, object]:
        documents: dict[str, object] = {
            "index.json": {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [described for saved in self._saved for described in _described(saved)],
            },
            "manifest.json": [_item(saved) for saved in self._saved],
            "oci-layout": {"imageLayoutVersion": "1.0.0"},
        }
        repositories: dict[str, dict[str, str]] = {}
        for saved in self._saved:
            for tag in saved.tags:
                top = saved.manifest.layers[-1].digest if saved.manifest.layers else saved.image.id
                repositories.setdefault(tag.name, {})[tag.tag] = hex_of(top)
        return documents | ({"repositories": repositories} if repositories else {})


def _path(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _item(saved: _Saved) -> dict[str, object]:
    tags = [tag.familiar for tag in saved.tags] or None
    return {"Config": _path(saved.image.id), "RepoTags": tags, "Layers": [_path(blob.digest) for blob in saved.manifest.layers]}


def _described(saved: _Saved) -> list[Descriptor]:
    """The manifest, once for each name."""
    named = [{"io.containerd.image.name": tag.canonical, "org.opencontainers.image.ref.name": tag.tag} for tag in saved.tags]
    digest = digest_of(saved.manifest_bytes)
    return [
        Descriptor(media_type=saved.manifest.media_type, digest=digest, size=len(saved.manifest_bytes), annotations=annotations)
        for annotations in named or [{}]
    ]
