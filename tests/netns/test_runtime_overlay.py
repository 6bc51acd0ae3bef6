"""Layers mounted for real: new and old system calls, volatile mounts again, and where there can be no overlayfs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flanneld.linux.netns import unmount
from runtime.linux.mountinfo import is_mounted
from runtime.linux.overlay import ONE_BY_ONE, mount_at_once, mount_one_by_one, mount_overlay
from runtime.linux.release import kernel_version


@dataclass(frozen=True)
class Place:
    """Where a test mounts."""

    root: Path

    def layer(self, name: str, **files: str) -> Path:
        path = self.root / "l" / name
        path.mkdir(parents=True)
        for file, text in files.items():
            (path / file).write_text(text)
        return path

    def directories(self, name: str = "") -> tuple[Path, Path, Path]:
        """Upper, work and target."""
        made = [self.root / f"{kind}{name}" for kind in ("upper", "work", "target")]
        for path in made:
            path.mkdir()
        return made[0], made[1], made[2]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path)
    for path in sorted(tmp_path.rglob("target*"), reverse=True):
        if path.is_dir():
            unmount(path)


def test_changes_go_to_the_upper_directory(place: Place) -> None:
    lowers = (place.layer("top", a="top", c="c"), place.layer("bottom", a="bottom", b="b"))
    upper, work, target = place.directories()
    mount_overlay(lowers, upper, work, target, volatile=False)
    assert [(target / name).read_text() for name in "abc"] == ["top", "b", "c"]
    (target / "b").unlink()
    (target / "new").write_text("new")
    unmount(target)
    assert sorted(os.listdir(upper)) == ["b", "new"]
    assert stat.S_ISCHR((upper / "b").lstat().st_mode)
    assert os.listdir(target) == []


def test_a_volatile_mount_may_come_back(place: Place) -> None:
    lowers = (place.layer("one", a="1"),)
    upper, work, target = place.directories()
    for count in range(3):
        mount_overlay(lowers, upper, work, target, volatile=True)
        assert sorted(os.listdir(target)) == ["a", *(f"n{number}" for number in range(count))]
        (target / f"n{count}").touch()
        unmount(target)


@pytest.mark.parametrize("mount", [mount_one_by_one, mount_at_once, mount_overlay])
def test_as_many_layers_as_an_image_may_have(place: Place, mount: Callable[..., None]) -> None:
    if mount is mount_one_by_one and kernel_version() < ONE_BY_ONE:
        pytest.skip("no lowerdir+ of overlayfs here")
    lowers = [place.layer(f"{number:026}", a=str(number), **{f"f{number}": ""}) for number in range(128)]
    upper, work, target = place.directories()
    mount(lowers, upper, work, target, volatile=True)
    assert len(os.listdir(target)) == 129
    assert (target / "a").read_text() == "0"


def test_names_that_options_would_misread(place: Place) -> None:
    lowers = (place.layer("a:b,c\\d", a="1"), place.layer("n" * 250, b="2"))
    upper, work, target = place.directories(":,")
    mount_overlay(lowers, upper, work, target, volatile=False)
    assert sorted(os.listdir(target)) == ["a", "b"]


def test_the_mount_is_private_and_nothing_is_left_of_a_failed_one(place: Place) -> None:
    upper, work, target = place.directories()
    mount_overlay([place.layer("l", a="1")], upper, work, target, volatile=False)
    (line,) = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(target) in line]
    assert "shared:" not in line
    unmount(target)
    with pytest.raises(OSError, match="No such file") as raised:
        mount_overlay([place.root / "missing"], upper, work, target, volatile=False)
    assert raised.value.errno == errno.ENOENT
    assert not is_mounted(target)


def test_without_layers_there_is_the_upper_directory_alone(place: Place) -> None:
    upper, work, target = place.directories()
    mount_overlay((), upper, work, target, volatile=True)
    (target / "a").touch()
    assert (upper / "a").exists()


def test_where_overlayfs_cannot_be_the_layers_are_copied_once(place: Place) -> None:
    outer = place.directories("-outer")
    mount_overlay([place.layer("base")], *outer, volatile=True)
    top, bottom = place.layer("top", a="top"), place.layer("bottom", a="bottom", b="b")
    (bottom / "d").mkdir()
    (bottom / "d/old").touch()
    (bottom / "a2").hardlink_to(bottom / "b")
    (top / "d").mkdir()
    (top / "d/new").symlink_to("x")
    os.setxattr(top / "d", "trusted.overlay.opaque", b"y")
    os.mknod(top / "b", stat.S_IFCHR, 0)
    upper, work, target = Place(outer[2]).directories()
    for count in range(2):
        mount_overlay([top, bottom], upper, work, target, volatile=False)
        assert sorted(os.listdir(target)) == ["a", "a2", "d"] + ["made"] * count
        assert (target / "a").read_text() == "top"
        assert os.listdir(target / "d") == ["new"]
        (target / "made").touch()
        unmount(target)


def test_what_overlayfs_wrote_is_not_taken_for_a_copy(place: Place) -> None:
    outer = place.directories("-outer")
    mount_overlay([place.layer("base")], *outer, volatile=True)
    upper, work, target = Place(outer[2]).directories()
    (upper / "changed").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        mount_overlay([place.layer("l", a="1")], upper, work, target, volatile=False)
