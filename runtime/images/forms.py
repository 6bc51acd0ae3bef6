"""The blobs that layers are in, and the repositories where those are: all that pulled and pushed images tell; must not know HTTP.

A layer is pushed in the form in which it came or went before: the registry may have it, and nothing is compressed twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from runtime.errors import EngineError
from runtime.images.image import Descriptor, Image, Index, Manifest
from runtime.images.manifests import read_manifest
from runtime.images.reference import parse_reference
from runtime.images.store import Images


class Forms:
    """What was known when it was made."""

    def __init__(self, images: Images) -> None:
        """Blocking: it reads manifests."""
        self._forms: dict[str, dict[str, Descriptor]] = {}
        self._homes: dict[tuple[str, str], set[str]] = {}
        for image in images.list():
            self._learn(image, images.manifest_of(image.id))
            for name in image.digests:
                reference = parse_reference(name)
                for _, manifest in _manifests_by(images, image, reference.digest):
                    self._learn(image, manifest)
                    for layer in manifest.layers:
                        self._homes.setdefault((reference.host, layer.digest), set()).add(reference.path)

    def _learn(self, image: Image, manifest: Manifest) -> None:
        for diff_id, layer in zip(image.config.rootfs.diff_ids, manifest.layers, strict=False):
            self._forms.setdefault(diff_id, {})[layer.digest] = layer

    def of(self, diff_id: str) -> tuple[Descriptor, ...]:
        """The blobs that this layer is or was in."""
        return tuple(self._forms.get(diff_id, {}).values())

    def homes(self, host: str, digest: str) -> tuple[str, ...]:
        """Repositories of a registry that have or had this blob."""
        return tuple(sorted(self._homes.get((host, digest), ())))


def manifests_of(images: Images, image: Image) -> Iterator[tuple[str, Manifest]]:
    """The manifests by which an image came or went, as far as they are still here, with their digests. Blocking."""
    for digest in (images.came_with(image.id), *(parse_reference(name).digest for name in image.digests)):
        yield from _manifests_by(images, image, digest)


def _manifests_by(images: Images, image: Image, digest: str) -> Iterator[tuple[str, Manifest]]:
    """What has that digest, or is for this image in the index that has."""
    if not digest or not images.content.has(digest):
        return
    try:
        found = read_manifest(images.content.read(digest), digest)
    except EngineError:
        return
    if isinstance(found, Index):
        for child in found.manifests:
            yield from _manifests_by(images, image, child.digest)
    elif found.config.digest == image.id:
        yield digest, found
