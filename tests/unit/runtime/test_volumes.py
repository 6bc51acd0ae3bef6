from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import Conflict, InvalidParameter, NotFound
from runtime.events import Events
from runtime.layout import Layout
from runtime.volume import ANONYMOUS, check_name
from runtime.volumes import Volumes

TMPFS = {"type": "tmpfs", "device": "tmpfs"}


def nobody(name: str) -> list[str]:
    return []


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root", tmp_path / "run")


@pytest.fixture
def volumes(layout: Layout) -> Volumes:
    return Volumes(layout, Events())


async def test_a_volume_outlives_the_engine(layout: Layout, volumes: Volumes) -> None:
    made = await volumes.create("data", labels={"a": "b"})
    (volumes.path("data") / "file").write_text("kept")
    again = Volumes(layout, Events())
    await again.load()
    assert again.find("data") == made
    assert (Path(made.mountpoint) / "file").read_text() == "kept"


async def test_creating_twice_is_creating_once(volumes: Volumes) -> None:
    made = await asyncio.gather(*(volumes.create("data") for _ in range(5)))
    assert made == [volumes.find("data")] * 5
    assert [event.action for event in volumes._events.past(0, 1 << 63)] == ["create"]


async def test_a_volume_without_a_name_is_anonymous(volumes: Volumes) -> None:
    made = await volumes.create("")
    assert made.anonymous
    assert len(made.name) == 64


async def test_other_options_are_a_conflict(volumes: Volumes) -> None:
    await volumes.create("data", options=TMPFS)
    assert await volumes.create("data") == await volumes.create("data", options=TMPFS)
    with pytest.raises(Conflict, match="volume name must be unique"):
        await volumes.create("data", options={**TMPFS, "o": "size=1m"})


@pytest.mark.parametrize("name", ["a", "../x", "a/b", "", ".hidden", "a" * 256, "a\n", "a\0b", "é1"])
def test_a_name_that_is_no_safe_component_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter):
        check_name(name)


@given(st.text(max_size=12))
def test_a_name_that_passes_stays_where_it_belongs(name: str) -> None:
    try:
        check_name(name)
    except InvalidParameter:
        return
    assert os.path.normpath(f"/v/{name}") == f"/v/{name}"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"colour": "red"}, 'invalid option: "colour"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"o": "ro"}, "missing required option"),
        ({"size": "1g"}, "quota size requested"),
        ({"type": "../x", "device": "d"}, "invalid option"),
        ({"type": "tmpfs", "device": "a\0b"}, "without NUL"),
    ],
)
async def test_options_are_checked(volumes: Volumes, options: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidParameter, match=complaint):
        await volumes.create("data", options=options)
    assert volumes.list({}, nobody) == []


async def test_a_driver_that_we_are_not_is_not_found(volumes: Volumes) -> None:
    with pytest.raises(NotFound, match='plugin "rexray" not found'):
        await volumes.create("data", driver="rexray")


async def test_a_volume_in_use_stays(volumes: Volumes) -> None:
    await volumes.create("data")
    with pytest.raises(Conflict, match=r"remove data: volume is in use - \[abc\]"):
        await volumes.remove("data", True, lambda _: ["abc"])
    await volumes.mount("data", "def")
    with pytest.raises(Conflict, match=r"\[def\]"):
        await volumes.remove("data", False, nobody)
    await volumes.unmount("data", "def")
    await volumes.remove("data", False, nobody)


async def test_a_removed_volume_leaves_nothing(layout: Layout, volumes: Volumes) -> None:
    made = await volumes.create("data")
    (Path(made.mountpoint) / "deep/er").mkdir(parents=True)
    await volumes.remove("data", False, nobody)
    assert list(layout.volumes.iterdir()) == list(layout.temporary.iterdir()) == []
    with pytest.raises(NotFound, match="get data: no such volume"):
        await volumes.remove("data", False, nobody)
    await volumes.remove("data", True, nobody)


async def test_lists_are_filtered(volumes: Volumes) -> None:
    await volumes.create("one", labels={"tier": "db"})
    await volumes.create("two")

    def names(**filters: list[str]) -> list[str]:
        return [volume.name for volume in volumes.list(filters, lambda name: ["c"] if name == "one" else [])]

    assert names() == ["one", "two"]
    assert names(label=["tier=db"]) == names(label=["tier"]) == names(dangling=["false"]) == names(name=["on"]) == ["one"]
    assert names(dangling=["true"]) == names(name=["^t"]) == ["two"]
    assert names(driver=["other"]) == names(name=["["]) == []
    with pytest.raises(InvalidParameter, match="invalid filter 'colour'"):
        names(colour=["red"])
    with pytest.raises(InvalidParameter, match="invalid filter 'dangling=\\[maybe\\]'"):
        names(dangling=["maybe"])


async def test_prune_takes_unnamed_ones_unless_asked_for_all(volumes: Volumes) -> None:
    anonymous = await volumes.create("")
    (Path(anonymous.mountpoint) / "file").write_bytes(bytes(1000))
    for name in ("named", "used"):
        await volumes.create(name)
    used = {"used": ["c"]}
    pruned = await volumes.prune({}, lambda name: used.get(name, []))
    assert (pruned.names, pruned.bytes) == ((anonymous.name,), 1000)
    assert (await volumes.prune({"all": ["true"]}, lambda name: used.get(name, []))).names == ("named",)


async def test_an_image_fills_an_empty_volume_and_no_other(volumes: Volumes, tmp_path: Path) -> None:
    source = tmp_path / "image"
    (source / "sub").mkdir(parents=True)
    source.chmod(0o1777)
    (source / "sub/file").write_text("image's")
    (source / "link").symlink_to("/etc/passwd")
    os.link(source / "sub/file", source / "hard")
    os.utime(source / "sub/file", (1, 1))
    await volumes.create("data")
    await volumes.populate("data", source)
    path = volumes.path("data")
    assert path.stat().st_mode & 0o7777 == 0o1777
    assert (path / "link").readlink() == Path("/etc/passwd")
    assert (path / "sub/file").stat().st_mtime == 1
    assert (path / "sub/file").samefile(path / "hard")
    (path / "hard").unlink()
    await volumes.populate("data", source)
    assert not (path / "hard").exists()


async def test_a_copy_that_was_cut_short_is_finished(volumes: Volumes, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image/second").touch()
    await volumes.create("data")
    path = volumes.path("data")
    (path / "first").touch()
    path.with_name("filling").touch()
    await volumes.populate("data", tmp_path / "image")
    assert sorted(os.listdir(path)) == ["first", "second"]
    assert not path.with_name("filling").exists()


async def test_what_is_broken_on_disk_is_left_alone(layout: Layout, volumes: Volumes) -> None:
    await volumes.create("good")
    (layout.volumes / "bad").mkdir()
    (layout.volumes / "bad/volume.json").write_text("{")
    await volumes.load()
    assert [volume.name for volume in volumes.list({}, nobody)] == ["good"]
    assert json.loads((layout.volumes / "good/volume.json").read_text())["labels"] == {}


async def test_usage_counts_hard_links_once_and_follows_none(volumes: Volumes) -> None:
    await volumes.create("data")
    path = volumes.path("data")
    (path / "file").write_bytes(bytes(5000))
    os.link(path / "file", path / "again")
    (path / "out").symlink_to("/usr")
    assert await volumes.usage("data") == 5000 + len("/usr")


def test_anonymous_is_docker_s_label() -> None:
    assert ANONYMOUS == "com.docker.volume.anonymous"
