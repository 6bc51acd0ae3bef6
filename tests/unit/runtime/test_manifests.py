"""What registries send, understood or refused."""

from __future__ import annotations

import json

import pytest

from runtime.errors import EngineError, NotFound
from runtime.images.image import Index, Manifest
from runtime.images.manifests import BadManifest, check_platform, choose_manifest, read_config, read_manifest
from runtime.images.platforms import parse_platform
from runtime.images.reference import parse_reference

NAME = parse_reference("x.y/a:b")
DIGEST = f"sha256:{'0' * 64}"
BLOB = {"mediaType": "", "digest": DIGEST, "size": 5}


def _manifest(**more: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": BLOB, "layers": [BLOB]} | more).encode()


def test_a_manifest_may_leave_out_what_it_may_and_have_more() -> None:
    found = read_manifest(_manifest(annotations=None, subject=BLOB, mediaType=None), NAME.familiar)
    assert isinstance(found, Manifest)
    assert [layer.size for layer in found.layers] == [5]
    empty = read_manifest(_manifest(layers=None), NAME.familiar)
    assert isinstance(empty, Manifest)
    assert empty.layers == ()


def test_schema_1_is_refused_with_what_to_do() -> None:
    with pytest.raises(BadManifest, match=r"schema 1 support is disabled .* author of x\.y/a:b to upgrade"):
        read_manifest(json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(), NAME.familiar)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"schemaVersion": "2"}',
        _manifest(manifests=[]),
        _manifest(config=None, layers=None),
        _manifest(config={"digest": DIGEST}),
        _manifest(config=BLOB | {"digest": "sha256:../../etc/passwd"}),
        _manifest(layers=[BLOB | {"digest": f"md5:{'0' * 32}"}]),
        _manifest(layers=[BLOB | {"size": -1}]),
        _manifest(config=BLOB | {"size": 1 << 40}),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BadManifest):
        read_manifest(data, NAME.familiar)


def test_an_artifact_is_no_image() -> None:
    with pytest.raises(NotFound, match=r"no image.*helm"):
        read_manifest(_manifest(config=BLOB | {"mediaType": "application/vnd.cncf.helm.config.v1+json"}), NAME.familiar)


def test_an_index_without_our_platform_says_which_that_is() -> None:
    index = read_manifest(json.dumps({"schemaVersion": 2, "manifests": [BLOB]}).encode(), NAME.familiar)
    assert isinstance(index, Index)
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x in the manifest list entries"):
        choose_manifest(index, parse_platform("linux/s390x"))


def _read(config: object) -> None:
    manifest = read_manifest(_manifest(), NAME.familiar)
    assert isinstance(manifest, Manifest)
    read_config(json.dumps(config).encode(), manifest)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"os": "linux", "rootfs": {"diff_ids": []}}, "layers from manifest don't match image configuration"),
        ({"os": "windows", "rootfs": {"diff_ids": [DIGEST]}}, 'operating system "windows" cannot be used'),
        ({"os": "linux", "rootfs": {"diff_ids": ["sha256:../x"]}}, "invalid digest"),
        ({"os": 5}, "invalid"),
        ([], "invalid"),
    ],
)
def test_a_config_fits_its_manifest_and_this_system(config: object, why: str) -> None:
    with pytest.raises(EngineError, match=why):
        _read(config)


def test_another_platforms_image_is_not_what_was_asked_for() -> None:
    manifest = read_manifest(_manifest(), NAME.familiar)
    assert isinstance(manifest, Manifest)
    config = read_config(json.dumps({"architecture": "arm64", "rootfs": {"diff_ids": [DIGEST]}}).encode(), manifest)
    check_platform(config, parse_platform("linux/arm64"), NAME)
    with pytest.raises(NotFound, match="does not match the specified platform: wanted linux/amd64, actual: linux/arm64"):
        check_platform(config, parse_platform("linux/amd64"), NAME)
