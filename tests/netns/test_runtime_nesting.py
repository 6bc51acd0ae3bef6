"""A group of the real cgroup v2, as a container's is that an engine runs in."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux.cgroups import V2, hierarchies
from runtime.linux.mountinfo import mounts_of
from runtime.linux.nesting import make_room


@pytest.fixture
def unified() -> Iterator[Path]:
    """The root of v2, which hands out a controller of whole processes."""
    root = hierarchies(mounts_of()).get(V2)
    offered = {"memory", "io", "hugetlb"} & set((root / "cgroup.controllers").read_text().split() if root else [])
    if root is None or not offered:
        pytest.skip("no controller of cgroup v2 here")
    switch, controller = root / "cgroup.subtree_control", min(offered)
    was_on = controller in switch.read_text().split()
    switch.write_text(f"+{controller}")
    yield root
    if not was_on:
        switch.write_text(f"-{controller}")


@pytest.fixture
def container(unified: Path) -> Iterator[tuple[Path, str]]:
    """A group with a process in it, and that process."""
    group = unified / f"nesting-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    child = subprocess.Popen(["sleep", "60"])
    try:
        (group / "cgroup.procs").write_text(str(child.pid))
        yield group, str(child.pid)
    finally:
        child.kill()
        child.wait()
        for directory, _, _ in os.walk(group, topdown=False):
            Path(directory).rmdir()


def test_processes_make_room_for_limits_and_a_second_time_nothing_happens(container: tuple[Path, str]) -> None:
    group, pid = container
    for _ in range(2):
        make_room(group)
        assert (group / "init/cgroup.procs").read_text().split() == [pid]
        assert (group / "cgroup.subtree_control").read_text() == (group / "cgroup.controllers").read_text() != "\n"


def test_the_machine_s_own_root_is_left_alone(unified: Path) -> None:
    before = (unified / "cgroup.procs").read_text()
    make_room(unified)
    assert not (unified / "init").exists()
    assert before


def test_where_there_is_no_room_it_is_said(container: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    group, _ = container
    (group / "cgroup.max.descendants").write_text("0")
    make_room(group)
    assert "cannot be limited" in caplog.text
