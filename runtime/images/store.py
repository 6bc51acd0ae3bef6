"""The images of one engine: found by every name they have, added, named; must not know registries or archives.

An image is a config, whose digest is its id, and the layers that the config names, unpacked. Blobs and layers that no image needs
are swept away after a removal, but not while somebody holds a lease: what a pull has fetched so far is no image's yet.

May be called from any thread.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from msgspec import structs

from flanneld.log import Log
from runtime.clock import NEVER, nanoseconds_of
from runtime.config import decode
from runtime.errors import EngineError, InvalidParameter, NotFound
from runtime.events import Events
from runtime.images.catalogue import Catalogue, Stored
from runtime.images.content import Content
from runtime.images.image import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST, Descriptor, Image, ImageConfig, Manifest
from runtime.images.layers import Layers, chain_ids
from runtime.images.manifests import MOST_LAYERS
from runtime.images.reference import Reference, parse_reference
from runtime.images.remove import InUse, Pruned, Removal
from runtime.images.sweep import Needed, Sweeper
from runtime.layout import Layout
from runtime.prune import parse_prune

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_ID_BEGIN = re.compile(r"(?:sha256:)?([0-9a-f]{1,63})")
log = Log(__name__)


class Images:
    """The store."""

    def __init__(self, layout: Layout, content: Content, layers: Layers, events: Events) -> None:
        """Blocking: it reads every image's record and config."""
        self.content = content
        self.layers = layers
        self.events = events
        self._catalogue = Catalogue(layout)
        self._configs: dict[str, ImageConfig] = {}
        self._changing = threading.RLock()
        """Held while the disk is written: whoever only looks does not wait for that."""
        self._lock = threading.RLock()
        """Held while catalogue and configs have to agree."""
        self._sweeper = Sweeper(content, layers, layout.temporary, self._needed)
        for image_id in list(self._catalogue.images):
            self._read_config(image_id)

    def _read_config(self, image_id: str) -> None:
        """Take over an image that an earlier engine had; one that lacks something is forgotten, and may be pulled again."""
        try:
            config = decode(self.content.read(image_id), ImageConfig)
            chains = chain_ids(config.rootfs.diff_ids)
            if chains and not self.layers.has(chains[-1]):
                raise NotFound(f"layer {chains[-1]} is not here")
            self._configs[image_id] = config
        except EngineError as error:
            log.warning("image dropped that is not whole", image=image_id, error=error)
            self._catalogue.drop(image_id)

    def find(self, name: str) -> Image:
        """By id or its unique beginning, by name with tag ("latest" if none) or digest; raises NotFound, InvalidParameter."""
        with self._lock:
            return self._image(self._find(name))

    def list(self) -> list[Image]:
        """Every image, steps of builds included."""
        with self._lock:
            return [self._image(stored) for stored in self._catalogue.images.values() if not stored.is_hidden]

    def add(
        self, config: bytes, manifest: str | None, blobs: Sequence[Descriptor], tag: Reference | None = None, parent: str = ""
    ) -> Image:
        """Make an image of what is here: a config's bytes, its manifest's digest, its layers' blobs. Blocking.

        The layers are unpacked, and everything is held by a lease. Power loss does not take an image that has a name or has no
        parent; others are steps of a build, and cheaper. Again: the image stays as it is. Raises EngineError.
        """
        read = decode(config, ImageConfig)
        self._check(read, blobs)
        image_id = self.content.put(config)
        is_lasting = tag is not None or not parent
        if is_lasting:
            self.layers.settle(chain_ids(read.rootfs.diff_ids))
        with self._changing:
            known = self._catalogue.images.get(image_id)
            if known is None or known.is_hidden:
                self._configs[image_id] = read
                stored = Stored(id=image_id, manifest=manifest or "", blobs=tuple(blobs), parent=parent)
                self._catalogue.put(stored, durable=is_lasting)
            if tag is not None:
                self._catalogue.name(tag.with_default_tag().canonical, image_id)
            return self.find(image_id)

    def _check(self, config: ImageConfig, blobs: Sequence[Descriptor]) -> None:
        diff_ids = config.rootfs.diff_ids
        if len(diff_ids) > MOST_LAYERS:
            raise EngineError("max depth exceeded")
        if len(diff_ids) != len(blobs):
            raise EngineError("layers from manifest don't match image configuration")
        for chain in chain_ids(diff_ids)[-1:]:
            self.layers.size(chain)
        for blob in blobs:
            self.content.size(blob.digest)

    def tag(self, image_id: str, reference: Reference) -> None:
        """Give an image a name, taking it from whichever has it. Blocking at an image's first name; raises NotFound."""
        if reference.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        name = reference.with_default_tag()
        config = self.find(image_id).config
        self.layers.settle(chain_ids(config.rootfs.diff_ids))
        with self._changing:
            found = self.find(image_id).id
            self._catalogue.name(name.canonical, found)
        self.events.tell("image", "tag", found, {**config.config.labels, "name": name.familiar})

    def digest_added(self, image_id: str, name: str) -> None:
        """A registry has the image by this name, "busybox@sha256:..."; raises NotFound, InvalidParameter."""
        canonical = parse_reference(name).canonical
        with self._changing:
            stored = self._find(image_id)
            if canonical not in stored.digests:
                self._catalogue.put(structs.replace(stored, digests=(*stored.digests, canonical)))

    def children(self, image_id: str) -> Sequence[str]:
        """Ids of the images that were built upon it."""
        return [
            stored.id for stored in tuple(self._catalogue.images.values()) if stored.parent == image_id and not stored.is_hidden
        ]

    def manifest_of(self, image_id: str) -> Manifest:
        """What an image is made of here: its config and the blobs of its layers; raises NotFound."""
        stored = self._find(image_id)
        is_docker = any(".docker." in blob.media_type for blob in stored.blobs)
        return Manifest(
            schema_version=2,
            media_type=DOCKER_MANIFEST if is_docker else OCI_MANIFEST,
            config=Descriptor(
                media_type=DOCKER_CONFIG if is_docker else OCI_CONFIG, digest=stored.id, size=self.content.size(stored.id)
            ),
            layers=stored.blobs,
        )

    def came_with(self, image_id: str) -> str:
        """Digest of the manifest that an image came with; "": it was made here."""
        return self._find(image_id).manifest

    def layer_sizes(self, image: Image) -> Sequence[int]:
        """Bytes of each layer's files, lowest first; raises NotFound."""
        return [self.layers.size(chain) for chain in chain_ids(image.config.rootfs.diff_ids)]

    def lease(self) -> AbstractContextManager[None]:
        """What is here, or comes within the context, stays until its end, whether an image needs it or not."""
        return self._sweeper.lease()

    def needed_chains(self) -> set[str]:
        """Every layer that an image, hidden ones included, is made of."""
        with self._lock:
            return {chain for image_id in self._catalogue.images for chain in chain_ids(self._configs[image_id].rootfs.diff_ids)}

    async def remove(self, name: str, force: bool, prune: bool, in_use: InUse) -> Sequence[Mapping[str, str]]:
        """Take a name from an image, and remove it with its last one; `prune`: its parents, too, that nobody else needs.

        Returns Docker's list of what was untagged and deleted; raises NotFound, Conflict.
        """
        with self._changing:
            removal = Removal(self, self._catalogue, in_use)
            removal.remove(name, self.find(name), force=force, prune=prune)
            self._forget_configs()
        await self.sweep()
        return removal.done

    async def prune(self, dangling_only: bool, filters: Mapping[str, Sequence[str]], in_use: InUse) -> Pruned:
        """Remove images that no container is made of: those without a name, or all; raises InvalidParameter."""
        wanted = parse_prune({key: values for key, values in filters.items() if key != "dangling"})
        with self._changing:
            removal = Removal(self, self._catalogue, in_use)
            removal.prune(dangling_only, lambda image: wanted.takes(_created(image), image.config.config.labels))
            size = sum(self.layers.size(chain) for chain in removal.layers)
            self._forget_configs()
        await self.sweep()
        return Pruned(removal.done, size)

    async def sweep(self) -> None:
        """Take away blobs and layers that no image needs, once nobody holds a lease."""
        await asyncio.to_thread(self._sweeper.sweep)

    def _forget_configs(self) -> None:
        with self._lock:
            for image_id in self._configs.keys() - self._catalogue.images.keys():
                del self._configs[image_id]

    def _find(self, name: str) -> Stored:
        images = self._catalogue.images
        if whole := _ID.fullmatch(name):
            found = images.get(f"sha256:{whole[1]}")
            if found is None or found.is_hidden:
                raise NotFound(f"No such image: {name}")
            return found
        begin = _ID_BEGIN.fullmatch(name)
        if name.startswith("sha256:"):
            shown = name
        else:
            reference = parse_reference(name).with_default_tag()
            shown = reference.familiar
            for stored in self._named(reference):
                return stored
        matching = [stored for key, stored in images.items() if begin and key[7:].startswith(begin[1]) and not stored.is_hidden]
        if len(matching) != 1:
            raise NotFound(f"No such image: {shown}")
        return matching[0]

    def _named(self, reference: Reference) -> Iterator[Stored]:
        if not reference.digest:
            if image_id := self._catalogue.tags.get(reference.canonical):
                yield self._catalogue.images[image_id]
            return
        canonical = reference.with_digest(reference.digest).canonical
        yield from (stored for stored in self._catalogue.images.values() if canonical in stored.digests)

    def _image(self, stored: Stored) -> Image:
        config = self._configs[stored.id]
        chains = chain_ids(config.rootfs.diff_ids)
        tags = [parse_reference(name).familiar for name, image_id in self._catalogue.tags.items() if image_id == stored.id]
        return Image(
            id=stored.id,
            config=config,
            size=sum(self.layers.size(chain) for chain in chains),
            tags=tuple(sorted(tags)),
            digests=tuple(parse_reference(name).familiar for name in stored.digests),
            parent=stored.parent if stored.parent in self._catalogue.images else "",
            layer=chains[-1] if chains else "",
        )

    def _needed(self) -> Needed:
        """What the images are made of, and the manifests that registries know them by."""
        digests: set[str] = set()
        with self._lock:
            for stored in self._catalogue.images.values():
                digests.update((stored.id, stored.manifest, *(blob.digest for blob in stored.blobs)))
                digests.update(parse_reference(name).digest for name in stored.digests)
            return Needed(frozenset(digests), frozenset(self.needed_chains()))


def _created(image: Image) -> str:
    """When it was made; NEVER if it does not say or says it wrongly."""
    try:
        nanoseconds_of(image.config.created)
    except ValueError:
        return NEVER
    return image.config.created
