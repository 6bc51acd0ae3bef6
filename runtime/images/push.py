"""Images from the store to registries, as `docker push` does it and tells it; must not know HTTP.

The manifest goes last, so that a registry never names what it does not have. Where all layers go as they came, the manifest does,
too: the digest stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from flanneld.retry import Backoff
from runtime.errors import EngineError, NotFound
from runtime.images.arrival import short
from runtime.images.compress import compress
from runtime.images.content import Content, digest_of
from runtime.images.forms import Forms, manifests_of
from runtime.images.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Image,
    Manifest,
)
from runtime.images.narration import Meter, Tell, narrate, together
from runtime.images.progress import Progress
from runtime.images.reference import Reference, parse_reference
from runtime.images.registry import Credentials, Registries
from runtime.images.registry.refusals import Refusal, Transient, push_error
from runtime.images.registry.repository import Answer, Repository
from runtime.images.registry.uploads import Upload, has_blob, mount_blob, put_manifest, send_blob
from runtime.images.store import Images

AT_ONCE = 5
"""Uploads of one push; Docker's."""
TRIES = 5
FIRST_WAIT_S = 1.0
MOST_MOUNTS = 3
"""Repositories that a blob is asked for in: more would cost more than sending it."""
_READ_BYTES = 256 * 1024
_COMPRESSED = frozenset({DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, OCI_LAYER_ZSTD})


def push(
    images: Images, registries: Registries, reference: Reference, credentials: Credentials | None
) -> AsyncGenerator[Progress, None]:
    """Send an image by its tag, or all tags of a repository when it names none.

    Raises NotFound, Unauthorized, Forbidden, Unavailable, EngineError.
    """

    async def work(tell: Tell) -> None:
        tell(Progress(status=f"The push refers to repository [{reference.repository}]"))
        repository = registries.repository(reference, credentials, for_push=True)
        with images.lease():
            try:
                for each in _references(images, reference):
                    await _Push(images, repository, each, await asyncio.to_thread(Forms, images)).run(tell)
            except Refusal as refusal:
                raise push_error(refusal) from refusal

    return narrate(work)


def _references(images: Images, reference: Reference) -> list[Reference]:
    """What is meant, tag by tag."""
    tags = [parse_reference(tag) for image in images.list() for tag in image.tags]
    here = [tag for tag in tags if tag.repository == reference.repository]
    if not here:
        raise NotFound(f"An image does not exist locally with the tag: {reference.name}")
    if reference.digest:
        raise EngineError("cannot push a digest reference")
    if not reference.tag:
        return sorted(here, key=lambda each: each.tag)
    if reference not in here:
        raise NotFound(f"tag does not exist: {reference.familiar}")
    return [reference]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer to be sent."""

    diff_id: str
    kept: Descriptor
    """The blob that the store has it in."""
    forms: tuple[Descriptor, ...]
    """Every compressed blob that it is known to be or have been in."""
    meter: Meter


class _Push:
    """One image to one tag."""

    def __init__(self, images: Images, repository: Repository, reference: Reference, forms: Forms) -> None:
        self._images = images
        self._repository = repository
        self._reference = reference
        self._forms = forms
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self, tell: Tell) -> None:
        image = self._images.find(self._reference.familiar)
        layers = self._layers(image, tell)
        async with together() as group:
            sent = [group.create_task(self._send_layer(layer)) for layer in layers]
        size = await asyncio.to_thread(self._images.content.size, image.id)
        config = Descriptor(media_type=DOCKER_CONFIG, digest=image.id, size=size)
        if not await has_blob(self._repository, image.id):
            await self._send(config)
        manifest = await asyncio.to_thread(self._manifest, image, config, [task.result() for task in sent])
        await put_manifest(self._repository, self._reference.tag, manifest)
        await asyncio.to_thread(self._images.content.put, manifest.data)
        by_digest = self._reference.with_digest(manifest.digest).familiar
        await asyncio.to_thread(self._images.digest_added, image.id, by_digest)
        self._images.events.tell("image", "push", self._reference.familiar, {"name": self._reference.name})
        tag, size = self._reference.tag, len(manifest.data)
        tell(Progress(status=f"{tag}: digest: {manifest.digest} size: {size}"))
        tell(Progress(aux={"Tag": tag, "Digest": manifest.digest, "Size": size}))

    def _layers(self, image: Image, tell: Tell) -> list[_Layer]:
        found = []
        kept = self._images.manifest_of(image.id).layers
        for diff_id, blob in reversed(list(zip(image.config.rootfs.diff_ids, kept, strict=True))):
            forms = {form.digest: form for form in (blob, *self._forms.of(diff_id)) if form.media_type in _COMPRESSED}
            meter = Meter(tell, short(diff_id), blob.size)
            meter.say("Preparing")
            found.append(_Layer(diff_id, blob, tuple(forms.values()), meter))
        return found[::-1]

    async def _send_layer(self, layer: _Layer) -> Descriptor:
        """See to it that the registry has a layer; returns the blob that it has it in."""
        if self._slots.locked():
            layer.meter.say("Waiting")
        async with self._slots:
            for form in layer.forms:
                if await has_blob(self._repository, form.digest):
                    layer.meter.say("Layer already exists")
                    return form
            for form in layer.forms:
                for home in self._forms.homes(self._reference.host, form.digest)[:MOST_MOUNTS]:
                    if home != self._reference.path and await mount_blob(self._repository.reaching(home), form.digest, home):
                        layer.meter.say(f"Mounted from {home}")
                        return form
            return await self._send_new(layer)

    async def _send_new(self, layer: _Layer) -> Descriptor:
        content = self._images.content
        form = next((form for form in layer.forms if content.has(form.digest)), None)
        if form is None:
            digest = await asyncio.to_thread(compress, content, layer.kept.digest)
            form = Descriptor(media_type=DOCKER_LAYER_GZIP, digest=digest, size=content.size(digest))
            if await has_blob(self._repository, digest):
                layer.meter.say("Layer already exists")
                return form
        layer.meter.total = form.size
        await self._send(form, layer.meter)
        layer.meter.say("Pushed")
        return form

    async def _send(self, blob: Descriptor, meter: Meter | None = None) -> None:
        """Send a blob, again from its begin when the connection breaks."""

        def chunks() -> AsyncIterator[bytes]:
            return _read(self._images.content, blob.digest, meter)

        backoff = Backoff(FIRST_WAIT_S, 16.0)
        for left in reversed(range(TRIES)):
            try:
                await send_blob(self._repository, Upload(blob.digest, blob.size, chunks))
                return
            except Transient as error:
                if not left:
                    raise
                await asyncio.sleep(max(backoff.next(), error.after_s))

    def _manifest(self, image: Image, config: Descriptor, layers: Sequence[Descriptor]) -> Answer:
        """The manifest by which it came, if it says the same; else a new one."""
        blobs = [layer.digest for layer in layers]
        for digest, known in manifests_of(self._images, image):
            if [layer.digest for layer in known.layers] == blobs:
                return Answer(digest, known.media_type or OCI_MANIFEST, self._images.content.read(digest))
        manifest = new_manifest(config, layers)
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=3)
        return Answer(digest_of(data), manifest.media_type, data)


def new_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> Manifest:
    """Docker's schema 2, which every registry takes, unless a layer's compression is OCI's alone."""
    if any(layer.media_type == OCI_LAYER_ZSTD for layer in layers):
        kinds = {DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}
        media_type, config_type = OCI_MANIFEST, OCI_CONFIG
    else:
        kinds = {OCI_LAYER_GZIP: DOCKER_LAYER_GZIP}
        media_type, config_type = DOCKER_MANIFEST, DOCKER_CONFIG
    blobs = tuple(
        Descriptor(media_type=kinds.get(layer.media_type, layer.media_type), digest=layer.digest, size=layer.size)
        for layer in layers
    )
    config = Descriptor(media_type=config_type, digest=config.digest, size=config.size)
    return Manifest(schema_version=2, media_type=media_type, config=config, layers=blobs)


async def _read(content: Content, digest: str, meter: Meter | None) -> AsyncIterator[bytes]:
    """A blob's bytes for an upload."""
    sent = 0
    with await asyncio.to_thread(content.path(digest).open, "rb") as file:
        while data := await asyncio.to_thread(file.read, _READ_BYTES):
            yield data
            sent += len(data)
            if meter is not None:
                meter.show("Pushing", sent)
