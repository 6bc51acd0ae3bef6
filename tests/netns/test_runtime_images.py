"""The store of images on a real disk: names, Docker's rules of removal, what is kept and for whom, and what a restart finds."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.config import ContainerConfig
from runtime.errors import Conflict, EngineError, InvalidParameter, NotFound
from runtime.events import Events
from runtime.images.content import Content
from runtime.images.image import OCI_LAYER, Descriptor, Image, ImageConfig, RootFs, encode_config
from runtime.images.layers import Layers
from runtime.images.reference import parse_reference
from runtime.images.remove import Use
from runtime.images.store import Images
from runtime.layout import Layout
from runtime_images import Files, digest_of, layer_tar

BASE: Files = {"etc/os": b"base"}
MORE: Files = {"bin/app": b"app!"}
OTHER: Files = {"bin/other": b"other"}
CONTAINER = "c" * 64


class World:
    """A store, and what runs of it."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(directory / "root", directory / "run")
        self.uses: dict[str, list[Use]] = {}
        self.events = Events()
        self.restart()

    def restart(self) -> None:
        """The next engine."""
        self.content = Content(self.layout)
        self.layers = Layers(self.layout, self.content)
        self.images = Images(self.layout, self.content, self.layers, self.events)

    def add(self, *layers: Files, tag: str = "", parent: str = "", **config: object) -> Image:
        """An image of these layers."""
        blobs, chain = [], ""
        for files in layers:
            tar = layer_tar(files)
            blob = Descriptor(media_type=OCI_LAYER, digest=self.content.put(tar), size=len(tar))
            chain = self.layers.unpack(self.content.path(blob.digest), OCI_LAYER, blob.digest, chain)
            blobs.append(blob)
        rootfs = RootFs(diff_ids=tuple(blob.digest for blob in blobs))
        described = encode_config(ImageConfig(architecture="amd64", rootfs=rootfs, config=ContainerConfig(**config)))  # type: ignore[arg-type]
        return self.images.add(described, None, blobs, parse_reference(tag) if tag else None, parent)

    def in_use(self, image_id: str) -> Sequence[Use]:
        return self.uses.get(image_id, [])

    async def remove(self, name: str, *, force: bool = False, prune: bool = True) -> list[str]:
        """What went, as the CLI prints it, without layers."""
        done = await self.images.remove(name, force, prune, self.in_use)
        lines = [f"{key}: {value}" for each in done for key, value in each.items()]
        return [line for line in lines if line.removeprefix("Deleted: ") not in self.all_chains]

    @property
    def all_chains(self) -> set[str]:
        return {digest_of(layer_tar(BASE)), digest_of(layer_tar(OTHER))}

    def sizes(self) -> tuple[int, int, int]:
        """Images, layers and blobs."""
        return len(self.images.list()), len(self.layers.chains()), len(list(self.content.digests()))

    def told(self) -> list[str]:
        return [event.action for event in self.events.past(0, 1 << 63)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def short(image: Image) -> str:
    return image.id[7:19]


def test_an_image_is_found_by_all_its_names(world: World) -> None:
    image = world.add(BASE, tag="busybox:1.36")
    world.images.tag(image.id, parse_reference("localhost:5000/a/b"))
    by_digest = "busybox@sha256:" + "1" * 64
    world.images.digest_added(image.id, by_digest)
    names = [
        "busybox:1.36",
        "docker.io/library/busybox:1.36",
        "localhost:5000/a/b",
        by_digest,
        image.id,
        image.id[7:],
        image.id[:12],
        short(image),
    ]
    for _ in range(2):
        assert {world.images.find(name).id for name in names} == {image.id}
        found = world.images.find(short(image))
        assert found.tags == ("busybox:1.36", "localhost:5000/a/b:latest")
        assert found.digests == (by_digest,)
        assert (found.size, found.layer) == (4, digest_of(layer_tar(BASE)))
        world.restart()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nosuch", "No such image: nosuch:latest"),
        ("a/b:c", "No such image: a/b:c"),
        ("sha256:" + "0" * 64, "No such image: sha256:" + "0" * 64),
        ("0000", "No such image: 0000:latest"),
    ],
)
def test_what_is_not_there_is_told_in_dockers_words(world: World, name: str, text: str) -> None:
    with pytest.raises(NotFound, match=f"^{text}$"):
        world.images.find(name)


@pytest.mark.parametrize("name", ["../x", "a b", "UPPER", "", "a:b:c", "x" * 300, "a\n", "%2e%2e/x", "a@sha256:1"])
def test_what_is_no_name_is_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidParameter):
        world.images.find(name)


def test_a_tag_moves_and_leaves_the_image_without(world: World) -> None:
    first, second = world.add(BASE, tag="app"), world.add(OTHER, tag="app")
    assert world.images.find("app").id == second.id
    assert world.images.find(first.id).tags == ()
    with pytest.raises(InvalidParameter, match="refusing to create a tag with a digest reference"):
        world.images.tag(first.id, parse_reference("app@sha256:" + "1" * 64))


def test_an_image_is_not_added_before_all_of_it_is_there(world: World) -> None:
    missing = "sha256:" + "5" * 64
    config = encode_config(ImageConfig(rootfs=RootFs(diff_ids=(missing,))))
    for blobs in ([Descriptor(digest=missing, size=1)], []):
        with pytest.raises(EngineError):
            world.images.add(config, None, blobs)
    assert world.images.list() == []


async def test_the_last_name_takes_the_image_along(world: World) -> None:
    image = world.add(BASE, tag="a:1", labels={"k": "v"})
    world.images.tag(image.id, parse_reference("a:2"))
    world.images.digest_added(image.id, "a@sha256:" + "1" * 64)
    assert await world.remove("a:1") == ["Untagged: a:1"]
    assert await world.remove("a:2") == ["Untagged: a:2", "Untagged: a@sha256:" + "1" * 64, f"Deleted: {image.id}"]
    assert world.sizes() == (0, 0, 0)
    assert world.told() == ["tag", "untag", "untag", "untag", "delete"]
    assert world.events.past(0, 1 << 63)[-1].attributes == {"k": "v", "name": image.id}


async def test_an_id_with_names_in_two_repositories_must_be_forced(world: World) -> None:
    image = world.add(BASE, tag="a:1")
    world.images.tag(image.id, parse_reference("b:1"))
    text = f"conflict: unable to delete {short(image)} (must be forced) - image is referenced in multiple repositories"
    with pytest.raises(Conflict) as refused:
        await world.remove(short(image))
    assert str(refused.value) == text
    assert await world.remove(short(image), force=True) == ["Untagged: a:1", "Untagged: b:1", f"Deleted: {image.id}"]


async def test_an_image_with_containers_is_kept_in_dockers_words(world: World) -> None:
    image = world.add(BASE, tag="a")
    world.uses[image.id] = [Use(CONTAINER, is_running=False)]
    with pytest.raises(Conflict) as by_name:
        await world.remove("a")
    with pytest.raises(Conflict) as by_id:
        await world.remove(image.id)
    world.uses[image.id] = [Use(CONTAINER, is_running=True)]
    with pytest.raises(Conflict) as running:
        await world.remove(image.id, force=True)
    assert str(by_name.value) == (
        'conflict: unable to remove repository reference "a" (must force) - '
        f"container {CONTAINER[:12]} is using its referenced image {short(image)}"
    )
    delete = f"conflict: unable to delete {short(image)}"
    assert str(by_id.value) == f"{delete} (must be forced) - image is being used by stopped container {CONTAINER[:12]}"
    assert str(running.value) == f"{delete} (cannot be forced) - image is being used by running container {CONTAINER[:12]}"
    assert world.images.find("a").id == image.id
    assert await world.remove("a", force=True) == ["Untagged: a:latest"]
    assert world.images.find(image.id).tags == ()


async def test_the_layers_of_a_container_outlive_the_image_that_was_forced_away(world: World) -> None:
    image = world.add(BASE, tag="a")
    world.uses[image.id] = [Use(CONTAINER, is_running=False)]
    assert await world.remove("a", force=True) == ["Untagged: a:latest", f"Deleted: {image.id}"]
    with pytest.raises(NotFound):
        world.images.find(image.id)
    world.restart()
    assert world.sizes() == (0, 1, 2)
    del world.uses[image.id]
    await world.images.prune(True, {}, world.in_use)
    assert world.sizes() == (0, 0, 0)


async def test_steps_of_a_build_go_with_what_was_built_of_them(world: World) -> None:
    step = world.add(BASE)
    built = world.add(BASE, MORE, tag="app", parent=step.id)
    assert world.images.children(step.id) == [built.id]
    with pytest.raises(Conflict, match=rf"unable to delete {short(step)} \(cannot be forced\) - image has dependent child images"):
        await world.remove(step.id, force=True)
    world.add(OTHER, tag="other")
    done = await world.images.remove("app", False, True, world.in_use)
    assert [each.get("Deleted", "")[:19] for each in done][1] == built.id[:19]
    assert {"Deleted": step.id} in done
    assert world.sizes() == (1, 1, 2)


async def test_steps_stay_with_noprune(world: World) -> None:
    step = world.add(BASE)
    world.add(BASE, MORE, tag="app", parent=step.id)
    await world.remove("app", prune=False)
    assert [image.id for image in world.images.list()] == [step.id]


async def test_prune_takes_what_has_no_name_or_what_nobody_uses(world: World) -> None:
    world.add(BASE, labels={"keep": "1"})
    world.add(MORE)
    used, named = world.add(BASE, OTHER, tag="used"), world.add(OTHER, tag="named")
    world.uses[used.id] = [Use(CONTAINER, is_running=False)]
    pruned = await world.images.prune(True, {"label!": ["keep"], "dangling": ["true"]}, world.in_use)
    assert pruned.bytes == 4
    assert len(world.images.list()) == 3
    assert {"Untagged": "named:latest"} in (await world.images.prune(False, {"until": ["1h"]}, world.in_use)).deleted
    assert [image.id for image in world.images.list()] == [used.id]
    assert named.layer not in world.layers.chains()
    with pytest.raises(InvalidParameter, match="invalid filter 'colour'"):
        await world.images.prune(True, {"colour": ["red"]}, world.in_use)


async def test_nothing_goes_while_somebody_holds_a_lease(world: World) -> None:
    world.add(BASE, tag="a")
    with world.images.lease():
        with world.images.lease():
            blob = world.content.put(b"fetched")
            await world.remove("a")
            assert world.content.has(blob)
        assert world.sizes() == (0, 1, 3)
    assert world.sizes() == (0, 0, 0)
    for thread in threading.enumerate():
        if thread.name == "sweep":
            await asyncio.to_thread(thread.join, 5)
    assert list(world.layout.temporary.iterdir()) == []


def test_what_a_restart_finds_is_whole(world: World) -> None:
    good, spoilt, gone = world.add(BASE, tag="good"), world.add(BASE, MORE, tag="spoilt"), world.add(OTHER, tag="gone")
    (world.layout.images / f"{spoilt.id[7:]}.json").write_bytes(b'{"id": "sha')
    (world.layout.images / ".half.json").write_bytes(b"{")
    shutil.rmtree(world.layout.layers / gone.layer[7:])
    world.restart()
    assert [image.id for image in world.images.list()] == [good.id]
    assert world.images.find("good").tags == ("good:latest",)
    for name in ("spoilt", "gone"):
        with pytest.raises(NotFound):
            world.images.find(name)
    assert world.add(BASE, MORE, tag="spoilt").id == spoilt.id
