"""Images as values: descriptors, manifests and configs of OCI image-spec 1.1 and Docker's schema 2, which differ in media types
alone; must not know where they are kept or come from.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field

from runtime.config import ContainerConfig

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an image runs on."""

    architecture: str
    os: str = "linux"
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A blob: what it is, its digest ("sha256:.."), its size in bytes."""

    media_type: str = ""
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = field(default_factory=dict)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One image: its config and its layers, lowest first."""

    schema_version: int
    media_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Manifests for several platforms."""

    schema_version: int
    media_type: str = ""
    manifests: tuple[Descriptor, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step by which an image was made."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False
    """It changed the config only."""


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    """The layers' digests, uncompressed, lowest first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An image's config; the digest of its bytes is the image's id."""

    architecture: str = ""
    os: str = "linux"
    variant: str = ""
    created: str = ""
    author: str = ""
    comment: str = ""
    config: ContainerConfig = ContainerConfig()
    rootfs: RootFs = RootFs()
    history: tuple[History, ...] = ()


def encode_config(config: ImageConfig) -> bytes:
    """The document of a config made here: what is empty is left out, and the same config is the same bytes."""
    document: dict[str, Any] = msgspec.to_builtins(config)
    document["config"] = _filled(document["config"])
    document["history"] = [_filled(step) for step in document["history"]]
    needed = {"architecture", "os", "config", "rootfs", "history"}
    return msgspec.json.encode({key: value for key, value in document.items() if value or key in needed}, order="sorted")


def _filled(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value not in (None, "", False, [], {}, ())}


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the store."""

    id: str
    """"sha256:..", of its config."""
    config: ImageConfig
    size: int
    """Bytes of its layers, unpacked."""
    tags: tuple[str, ...] = ()
    """Familiar names: "busybox:latest", "localhost:5000/a/b:c"."""
    digests: tuple[str, ...] = ()
    """"busybox@sha256:..": manifests that it was pulled or pushed by."""
    parent: str = ""
    """Id of the image that it was built upon here; "" else."""
    layer: str = ""
    """Chain id of the topmost layer; "": an image without any."""
