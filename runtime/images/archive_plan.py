"""What images an archive has, by its manifest.json or its index.json (OCI image-layout); must not know the store.

Both are believed in nothing but which files belong together: digests decide what those are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from runtime.config import decode
from runtime.errors import EngineError, InvalidParameter
from runtime.images.archive_members import Members
from runtime.images.image import Descriptor, Index, Manifest
from runtime.images.limits import BadArchive
from runtime.images.manifests import choose_manifest, read_manifest
from runtime.images.platforms import host_platform
from runtime.images.reference import Reference, parse_reference

MANIFEST, INDEX = "manifest.json", "index.json"
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
"""Annotations with a name, the better first: the second is often a tag alone."""
_DEEPEST = 3
_WHAT = "the archive"
"""For errors about manifests."""


class _Item(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image of manifest.json: files by their names."""

    config: str
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loading:
    """An image that is to be loaded."""

    config: str
    """Digest."""
    blobs: tuple[Descriptor, ...]
    tags: tuple[Reference, ...]
    manifest: str = ""
    """Digest of its OCI manifest, if it has one."""


def plan(members: Members) -> list[Loading]:
    """Every image of an archive; blocking. Raises NotFound, BadArchive, InvalidParameter, EngineError."""
    if not members.has(INDEX) and not members.has(MANIFEST):
        raise BadArchive(
            "the archive has neither manifest.json nor index.json: it is none of `docker save`; `docker import` takes others"
        )
    of_index = list(_of_index(members)) if members.has(INDEX) else []
    return list(_of_manifest(members, of_index)) if members.has(MANIFEST) else of_index


def _of_manifest(members: Members, of_index: list[Loading]) -> Iterator[Loading]:
    known = {(loading.config, tuple(blob.digest for blob in loading.blobs)): loading for loading in of_index}
    for item in decode(members.document(MANIFEST), tuple[_Item, ...]):
        config = members.digest(item.config)
        blobs = tuple(members.layer(name) for name in item.layers)
        tags = tuple(_tag(name) for name in item.repo_tags)
        same = known.get((config, tuple(blob.digest for blob in blobs)))
        yield Loading(config, same.blobs if same else blobs, tags, same.manifest if same else "")


def _tag(name: str) -> Reference:
    reference = parse_reference(name)
    if reference.digest or not reference.tag:
        raise InvalidParameter(f"invalid tag {name[:200]!r}")
    return reference


def _of_index(members: Members) -> Iterator[Loading]:
    for descriptor in decode(members.document(INDEX), Index).manifests:
        with suppress(EngineError):
            # An index may name what the archive does not have: other platforms, artifacts.
            yield _described(members, descriptor)


def _described(members: Members, descriptor: Descriptor) -> Loading:
    chosen = descriptor
    for _ in range(_DEEPEST):
        found = read_manifest(members.blob(_blob(members, chosen.digest)), _WHAT)
        if isinstance(found, Manifest):
            config = _blob(members, found.config.digest)
            for blob in found.layers:
                _blob(members, blob.digest)
            return Loading(config, found.layers, tuple(_names(descriptor)), chosen.digest)
        chosen = choose_manifest(found, host_platform())
    raise BadArchive(f"indexes within indexes, deeper than {_DEEPEST}")


def _blob(members: Members, digest: str) -> str:
    """The digest, whose blob the archive has; raises NotFound."""
    return members.digest(f"blobs/{digest.replace(':', '/')}")


def _names(descriptor: Descriptor) -> Iterator[Reference]:
    for key in _NAMES:
        name = descriptor.annotations.get(key, "")
        if "/" in name or ":" in name:
            yield _tag(name)
            return
