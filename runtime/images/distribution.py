"""What a registry has under a name, without fetching it (GET /distribution/NAME/json); must not know the store."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from runtime.images.image import DOCKER_MANIFEST, Descriptor, ImageConfig, Index, Platform
from runtime.images.manifests import read_config, read_manifest
from runtime.images.reference import Reference
from runtime.images.registry import Credentials, Registries
from runtime.images.registry.refusals import Refusal, pull_error


@dataclass(frozen=True, slots=True)
class Distribution:
    """A manifest or index, and the platforms that it is for."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]

    def encode(self) -> dict[str, object]:
        """As the API has it."""
        return {"Descriptor": msgspec.to_builtins(self.descriptor), "Platforms": msgspec.to_builtins(self.platforms)}


async def distribution(registries: Registries, reference: Reference, credentials: Credentials | None) -> Distribution:
    """Ask what a tag or digest stands for; raises NotFound, Unauthorized, Unavailable, EngineError."""
    repository = registries.repository(reference, credentials)
    try:
        answer = await repository.manifest(reference.digest or reference.with_default_tag().tag)
        found = read_manifest(answer.data, reference.familiar)
        media_type = found.media_type or answer.media_type or DOCKER_MANIFEST
        descriptor = Descriptor(media_type=media_type, digest=answer.digest, size=len(answer.data))
        if isinstance(found, Index):
            return Distribution(descriptor, tuple(each.platform for each in found.manifests if each.platform is not None))
        config = read_config(await repository.small_blob(found.config.digest, found.config.size), found)
    except Refusal as refusal:
        raise pull_error(refusal, reference) from refusal
    return Distribution(descriptor, (_platform(config),))


def _platform(config: ImageConfig) -> Platform:
    return Platform(config.architecture, config.os, config.variant)
