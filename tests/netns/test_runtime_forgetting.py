"""What is left of a container at its end: control groups, and what runc remembers."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.linux.cgroups import Cgroup
from runtime.linux.oci import Runc


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """One that exists in every hierarchy."""
    made = Cgroup.at(f"/test-{uuid.uuid4().hex}")
    places = set(made.directories.values())
    for place in places:
        place.mkdir()
    yield made
    for place in places:
        with suppress(FileNotFoundError):
            place.rmdir()


@pytest.fixture
def runc(tmp_path: Path) -> Runc:
    """One that remembers a container `c`."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c/state.json").write_text("{}")
    return Runc(tmp_path / "not-called", tmp_path)


def test_a_group_is_removed_from_every_hierarchy_and_may_be_again(group: Cgroup) -> None:
    assert group.exists()
    assert group.remove()
    assert not group.exists()
    assert group.remove()


def test_a_container_in_which_nothing_is_left_is_forgotten_without_runc(runc: Runc, group: Cgroup) -> None:
    assert runc.forget("c", group)
    assert not group.exists()
    assert list(runc.state_directory.iterdir()) == []


def test_one_with_a_process_is_left_to_runc(runc: Runc, group: Cgroup) -> None:
    place = next(iter(group.directories.values()))
    with subprocess.Popen(["sleep", "100"]) as stray:
        try:
            (place / "cgroup.procs").write_text(str(stray.pid))
            assert not runc.forget("c", group)
        finally:
            stray.kill()
    assert (runc.state_directory / "c/state.json").exists()


def test_one_that_another_runtime_remembers_is_left_to_it(runc: Runc, group: Cgroup) -> None:
    (runc.state_directory / "c/state.json").rename(runc.state_directory / "c/status")
    assert not runc.forget("c", group)
    assert group.exists()
