"""What registries send, understood: manifests, indexes and configs of one image (OCI image-spec 1.1, Docker's schema 2); must not
know how they came.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from runtime.config import decode
from runtime.errors import EngineError, InvalidParameter, NotFound
from runtime.images.content import hex_of
from runtime.images.image import DOCKER_CONFIG, OCI_CONFIG, Descriptor, ImageConfig, Index, Manifest, Platform
from runtime.images.platforms import choose, render_platform, suits
from runtime.images.reference import Reference

T = TypeVar("T")

MAX_CONFIG = 8 << 20
"""Bytes."""
MOST_LAYERS = 127
"""As many as overlayfs and Docker bear."""
_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG, "", "application/octet-stream"})
"""Old tools write the last two."""
_SCHEMA_1 = (
    "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support is disabled by default and "
    "will be removed in an upcoming release. Suggest the author of {name} to upgrade the image to the OCI Format or Docker Image "
    "manifest v2, schema 2. More information at https://docs.docker.com/go/deprecated-image-specs/"
)


class BadManifest(EngineError):
    """It is nothing that an image can be made of."""


class _Kind(msgspec.Struct, rename="camel"):
    """What tells the kinds of manifest apart; a document that is two kinds at once is none (CVE-2021-41190)."""

    schema_version: int = 0
    config: Any = None
    layers: Any = None
    fs_layers: Any = None
    manifests: Any = None


def read_manifest(data: bytes, name: str) -> Manifest | Index:
    """Understand a manifest or an index of what people call `name`; raises BadManifest, NotFound for what is no image."""
    kind = _decode(data, _Kind)
    if kind.schema_version == 1 or kind.fs_layers is not None:
        raise BadManifest(_SCHEMA_1.format(name=name))
    is_index, is_manifest = kind.manifests is not None, kind.config is not None or kind.layers is not None
    if kind.schema_version != 2 or is_index == is_manifest:
        raise BadManifest(f"invalid manifest of {name}, expected an image's or an index")
    if is_index:
        index = _decode(data, Index)
        _check(index.manifests)
        return index
    manifest = _decode(data, Manifest)
    _check((manifest.config, *manifest.layers))
    if manifest.config.media_type not in _CONFIGS:
        raise NotFound(f'{name} is no image: its config is "{manifest.config.media_type[:100]}"')
    if manifest.config.size > MAX_CONFIG:
        raise BadManifest(f"the config has {manifest.config.size} bytes, expected at most {MAX_CONFIG}")
    return manifest


def choose_manifest(index: Index, wanted: Platform) -> Descriptor:
    """The index's manifest for that platform; raises NotFound."""
    if (found := choose(index.manifests, wanted)) is None:
        raise NotFound(f"no matching manifest for {render_platform(wanted)} in the manifest list entries")
    return found


def read_config(data: bytes, manifest: Manifest) -> ImageConfig:
    """Understand an image's config, which fits its manifest; raises BadManifest."""
    config = _decode(data, ImageConfig)
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise BadManifest("layers from manifest don't match image configuration")
    if len(manifest.layers) > MOST_LAYERS:
        raise BadManifest("max depth exceeded")
    if config.os not in ("", "linux"):
        raise BadManifest(
            f'image operating system "{config.os[:50]}" cannot be used on this platform: operating system is not supported'
        )
    try:
        for diff_id in config.rootfs.diff_ids:
            hex_of(diff_id)
    except InvalidParameter as error:
        raise BadManifest(str(error)) from error
    return config


def check_platform(config: ImageConfig, wanted: Platform, reference: Reference) -> None:
    """An image that was asked for with a platform has it; raises NotFound."""
    own = Platform(config.architecture, config.os, config.variant)
    if not suits(own, wanted):
        why = f"does not match the specified platform: wanted {render_platform(wanted)}, actual: {render_platform(own)}"
        raise NotFound(f"image with reference {reference.familiar} was found but {why}")


def _check(descriptors: tuple[Descriptor, ...]) -> None:
    try:
        for descriptor in descriptors:
            hex_of(descriptor.digest)
            if descriptor.size < 0:
                raise BadManifest(f"blob {descriptor.digest} of {descriptor.size} bytes")
    except InvalidParameter as error:
        raise BadManifest(str(error)) from error


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return decode(data, kind)
    except (InvalidParameter, RecursionError) as error:
        raise BadManifest(f"invalid manifest or config: {error}") from error
