"""Images saved, loaded and imported for real: both formats, the same bytes, strangers' archives, and an engine that is killed."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.config import ContainerConfig
from runtime.errors import EngineError, NotFound
from runtime.images.importing import import_tar
from runtime.images.load import load
from runtime.images.progress import Progress
from runtime.images.reference import parse_reference
from runtime.images.save import save
from runtime.images.store import Images
from runtime_images import Files, Link, image_config, image_tar, layer_tar, oci_tar
from runtime_load_loop import loaded, store, stream

ONE: Files = {"etc/one": b"1"}
TWO: Files = {"etc/two": b"22", "etc/.wh.one": b""}


async def saved(images: Images, *names: str) -> bytes:
    return b"".join([chunk async for chunk in save(images, names)])


def blobs(images: Images) -> int:
    return len(list(images.content.digests()))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
async def test_dockers_archive_is_loaded(tmp_path: Path, compress: type[bytes]) -> None:
    images = store(tmp_path)
    said = await loaded(images, compress(image_tar([ONE, TWO], ["busybox:latest", "localhost:5000/a/b:c"])))
    assert said == ["Loaded image: busybox:latest", "Loaded image: localhost:5000/a/b:c"]
    image = images.find("busybox")
    assert image.config.config.cmd == ("/bin/true",)
    assert images.layer_sizes(image) == [1, 2]
    assert blobs(images) == 3  # a config and two layers: what else is in an archive is gone
    assert (images.layers.lower_dirs(image.layer)[0] / "etc/two").read_bytes() == b"22"


async def test_an_oci_layout_is_loaded_with_its_manifest(tmp_path: Path) -> None:
    images = store(tmp_path)
    assert await loaded(images, oci_tar([ONE, TWO], "example.com/x:1")) == ["Loaded image: example.com/x:1"]
    image = images.find("example.com/x:1")
    assert json.loads(images.content.read(images.came_with(image.id)))["config"]["digest"] == image.id
    assert blobs(images) == 4


async def test_an_image_without_a_name_is_told_by_its_id(tmp_path: Path) -> None:
    images = store(tmp_path)
    (image_id,) = await loaded(images, oci_tar([ONE]))
    assert image_id == f"Loaded image ID: {images.list()[0].id}"
    assert await loaded(images, image_tar([TWO])) == [f"Loaded image ID: {images.list()[1].id}"]


async def test_a_name_that_moves_is_told(tmp_path: Path) -> None:
    images = store(tmp_path)
    await loaded(images, image_tar([ONE], ["app:1"]))
    old = images.find("app:1").id
    said = await loaded(images, image_tar([TWO], ["app:1"]))
    assert said == [f"The image app:1 already exists, renaming the old one with ID {old} to empty string", "Loaded image: app:1"]


async def test_progress_is_by_layer_and_only_of_new_ones(tmp_path: Path) -> None:
    images = store(tmp_path)
    steps = [step async for step in load(images, stream(image_tar([ONE, TWO], ["a:1"]))) if step.status]
    again = [step async for step in load(images, stream(image_tar([ONE], ["b:1"]))) if step.status]
    assert [(step.status, step.current, step.total) for step in steps] == [("Loading layer", n, 10240) for n in (0, 10240) * 2]
    assert again == []


async def test_what_was_saved_is_loaded_and_saved_as_the_same_bytes(tmp_path: Path) -> None:
    first, second = store(tmp_path / "1"), store(tmp_path / "2")
    await loaded(first, oci_tar([ONE, TWO], "example.com/gzipped:1"))
    await loaded(first, image_tar([ONE], ["plain:1", "plain:2"]))
    data = await saved(first, "example.com/gzipped:1", "plain")
    assert await loaded(second, data) == [f"Loaded image: {name}" for name in ("example.com/gzipped:1", "plain:1", "plain:2")]
    assert await saved(second, "example.com/gzipped:1", "plain") == data
    assert {image.id for image in first.list()} == {image.id for image in second.list()}
    assert [event.action for event in first.events.past(0, 1 << 63)].count("save") == 2


async def test_an_archive_has_both_formats(tmp_path: Path) -> None:
    images = store(tmp_path)
    await loaded(images, image_tar([ONE, TWO], ["a:1"]))
    with tarfile.open(fileobj=io.BytesIO(await saved(images, "a:1", images.find("a:1").id))) as tar:
        documents = {name: json.loads(_member(tar, name)) for name in ("manifest.json", "index.json", "oci-layout", "repositories")}
        (item,) = documents["manifest.json"]
        assert item["RepoTags"] == ["a:1"]
        assert all(_member(tar, name) for name in (item["Config"], *item["Layers"]))
        (manifest,) = documents["index.json"]["manifests"]
        assert manifest["annotations"]["io.containerd.image.name"] == "docker.io/library/a:1"
        assert json.loads(_member(tar, "blobs/" + manifest["digest"].replace(":", "/")))["schemaVersion"] == 2
        assert documents["oci-layout"] == {"imageLayoutVersion": "1.0.0"}


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def test_what_is_not_there_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such image: nosuch:latest"):
        save(store(tmp_path), ["nosuch"])


def item(config: str, *layers: str, tags: list[str] | None = None) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": tags, "Layers": layers}]).encode()


PLAIN = layer_tar(ONE)
STRANGE: dict[str, bytes] = {
    "nothing": b"",
    "noise": os.urandom(2000),
    "half": image_tar([ONE], ["a:1"])[:6000],
    "gzip of half": gzip.compress(image_tar([ONE], ["a:1"]))[:-20],
    "no manifest": layer_tar(ONE),
    "a manifest of something": layer_tar({"manifest.json": b'{"a": 1}'}),
    "a config elsewhere": layer_tar({"manifest.json": item("../../../../etc/passwd")}),
    "a config through a link": layer_tar({"manifest.json": item("c"), "c": Link("/etc/passwd")}),
    "a config through a loop": layer_tar({"manifest.json": item("c"), "c": Link("d"), "d": Link("c")}),
    "a manifest through a link": layer_tar({"manifest.json": Link("/etc/passwd", is_hard=True)}),
    "a config that is none": layer_tar({"manifest.json": item("c"), "c": b"[]"}),
    "a layer too many": layer_tar({"manifest.json": item("c", "l", "l"), "c": image_config([PLAIN]), "l": PLAIN}),
    "another layer": layer_tar({"manifest.json": item("c", "l"), "c": image_config([PLAIN]), "l": layer_tar(TWO)}),
    "a layer that is none": layer_tar({"manifest.json": item("c", "l"), "c": image_config([b"evil"]), "l": b"evil"}),
    "a tag that is none": layer_tar({"manifest.json": item("c", "l", tags=["../x:1"]), "c": image_config([PLAIN]), "l": PLAIN}),
    "a blob under another's name": layer_tar({"index.json": b"{}", "blobs/sha256/" + "0" * 64: b"evil"}),
    "a manifest of 9 MB": layer_tar({"manifest.json": b" " * (9 << 20) + item("c")}),
}


@pytest.mark.parametrize("name", STRANGE)
async def test_a_strange_archive_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    images = store(tmp_path)
    await loaded(images, image_tar([TWO], ["before:1"]))
    with pytest.raises(EngineError):
        await loaded(images, STRANGE[name])
    assert [image.tags for image in images.list()] == [("before:1",)]
    assert blobs(images) == 2
    assert len(images.layers.chains()) == 1
    assert list((tmp_path / "root/tmp").iterdir()) == []


async def test_older_archives_have_a_layer_once_and_links_to_it(tmp_path: Path) -> None:
    images = store(tmp_path)
    files = {"manifest.json": item("c.json", "1/layer.tar", "2/layer.tar"), "c.json": image_config([PLAIN, PLAIN])}
    await loaded(images, layer_tar(files | {"1/layer.tar": PLAIN, "2/layer.tar": Link("../1/layer.tar")}))
    assert images.layer_sizes(images.list()[0]) == [1, 1]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
async def test_a_tar_of_files_is_imported(tmp_path: Path, compress: type[bytes]) -> None:
    images = store(tmp_path)
    reference = parse_reference("imported:1")
    image = await import_tar(images, stream(compress(PLAIN)), reference, "from afar", ContainerConfig(cmd=("sh",)))
    assert images.find("imported:1").id == image.id
    assert (image.config.comment, image.config.config.cmd, image.config.os) == ("from afar", ("sh",), "linux")
    assert blobs(images) == 2
    with pytest.raises(EngineError, match="archive"):
        await import_tar(images, stream(b"evil" * 1000), None, "", ContainerConfig())
    assert blobs(images) == 2


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    images = store(tmp_path)
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield image_tar([{"big": os.urandom(1 << 20)}])[: 1 << 19]
        begun.set()
        await asyncio.Event().wait()

    async def loading() -> list[Progress]:
        return [step async for step in load(images, endless())]

    task = asyncio.create_task(loading())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert blobs(images) == 0
    assert list((tmp_path / "root/tmp").iterdir()) == []


def killed_after(directory: Path, wait_s: float) -> None:
    """An engine that loads and removes images, until a moment after its first."""
    here = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    command: list[str | Path] = [sys.executable, here / "runtime_load_loop.py", directory]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as engine:
        try:
            assert engine.stdout is not None
            assert engine.stdout.readline()
            time.sleep(wait_s)
        finally:
            engine.kill()


@pytest.mark.parametrize("wait_s", [0.01, 0.04, 0.15])
async def test_an_engine_killed_at_any_moment_leaves_a_store_that_is_whole(tmp_path: Path, wait_s: float) -> None:
    await asyncio.to_thread(killed_after, tmp_path, wait_s)
    images = store(tmp_path)
    assert images.list()
    for image in images.list():
        directories = images.layers.lower_dirs(image.layer)
        sizes = [sum(path.stat().st_size for path in where.rglob("*") if path.is_file()) for where in directories]
        assert sizes[::-1] == list(images.layer_sizes(image))
        assert await saved(images, image.id)
    await loaded(images, image_tar([ONE], ["after:1"]))
    await images.prune(False, {}, lambda _: [])
    assert images.list() == []
    assert blobs(images) == 0
