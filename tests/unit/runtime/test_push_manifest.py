"""The manifests that a push makes."""

from __future__ import annotations

from runtime.images.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
)
from runtime.images.push import new_manifest

CONFIG = Descriptor(media_type=OCI_CONFIG, digest="sha256:c", size=3)


def _layer(media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest="sha256:l", size=5, annotations={"a": "b"})


def test_dockers_schema_2_is_what_every_registry_takes() -> None:
    made = new_manifest(CONFIG, [_layer(OCI_LAYER_GZIP), _layer(DOCKER_LAYER_GZIP)])
    assert (made.media_type, made.config.media_type) == (DOCKER_MANIFEST, DOCKER_CONFIG)
    assert {layer.media_type for layer in made.layers} == {DOCKER_LAYER_GZIP}
    assert made.layers[0].annotations == {}


def test_a_compression_of_oci_alone_makes_the_manifest_ocis() -> None:
    made = new_manifest(CONFIG, [_layer(DOCKER_LAYER_GZIP), _layer(OCI_LAYER_ZSTD)])
    assert (made.media_type, made.config.media_type) == (OCI_MANIFEST, OCI_CONFIG)
    assert [layer.media_type for layer in made.layers] == [OCI_LAYER_GZIP, OCI_LAYER_ZSTD]
