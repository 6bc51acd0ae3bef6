"""Logs, `docker cp`, diff, export, top, stats and volumes of containers that runc runs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runtime.config import LogConfig
from runtime.containers.archive import Extraction, get_archive, put_archive
from runtime.containers.changes import changes
from runtime.containers.container import Container
from runtime.containers.export import export
from runtime.containers.logs import LogLine, LogQuery, read_logs
from runtime.containers.record import State
from runtime.containers.stats import stats
from runtime.containers.top import top
from runtime.errors import Conflict, InvalidParameter
from runtime_world import RuntimeWorld, runtime_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeWorld]:
    with runtime_world(tmp_path_factory.mktemp("files")) as found:
        yield found


async def collected(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def cat(container: Container, path: str) -> dict[str, bytes]:
    """Regular files at the path, by their names in the archive."""
    _, chunks = await get_archive(container, path)
    with tarfile.open(fileobj=io.BytesIO(await collected(chunks))) as archive:
        return {member.name: file.read() for member in archive if (file := archive.extractfile(member))}


async def copy_in(container: Container, path: str, name: str, data: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))

    async def once() -> AsyncIterator[bytes]:
        yield buffer.getvalue()

    await put_archive(container, path, once(), Extraction())


async def lines(container: Container, query: LogQuery) -> list[LogLine]:
    assert container.log_path is not None
    return [line async for line in read_logs(container.log_path, query, lambda: container.is_running)]


def test_a_follower_reads_all_until_the_end(world: RuntimeWorld) -> None:
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.1; done; printf last"
    container = world.started("sh", "-c", script)
    found = world.run(lines(container, LogQuery(follow=True)))
    assert [line.data for line in found if line.stream == 1] == [b"out 1\n", b"out 2\n", b"out 3\n", b"last"]
    assert [line.data for line in found if line.stream == 2] == [b"err 1\n", b"err 2\n", b"err 3\n"]
    assert [line.data for line in world.run(lines(container, LogQuery(tail=1)))] == [b"last"]


def test_a_follower_reads_through_rotations(world: RuntimeWorld) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line number $i; i=$((i+1)); done"
    options = LogConfig(type="json-file", config={"max-size": "200k", "max-file": "20"})
    container = world.new("sh", "-c", script, log_config=options)

    async def both() -> list[LogLine]:
        await world.containers.start(container)
        return await lines(container, LogQuery(follow=True))

    found = world.run(both())
    assert [line.data for line in found] == [b"line number %d\n" % number for number in range(20_000)]
    assert len(list(Path(container.record.log_path).parent.glob("*-json.log*"))) > 3
    assert [line.data for line in world.run(lines(container, LogQuery(tail=5000)))] == [line.data for line in found[-5000:]]


@pytest.mark.parametrize("is_running", [False, True])
def test_files_go_in_and_come_out(world: RuntimeWorld, is_running: bool) -> None:
    container = world.new("sleep", "1000", binds=("things:/data",), tmpfs={"/scratch": ""})
    if is_running:
        world.start(container)
    for path in ("/tmp", "/data") + (("/scratch",) if is_running else ()):  # noqa: S108 - the container's
        world.run(copy_in(container, path, "new", path.encode()))
        assert world.run(cat(container, f"{path}/new")) == {"new": path.encode()}
    if is_running:
        assert world.exec(container, "cat", "/data/new")[1] == b"/data"
        assert world.run(cat(container, "/etc/hostname")) == {"hostname": container.id[:12].encode() + b"\n"}
    assert (world.engine.volumes.path("things") / "new").read_bytes() == b"/data"
    world.run(world.containers.remove(container, True, True))
    world.run(world.engine.volumes.remove("things", False, lambda _: []))


def test_a_read_only_container_keeps_its_root(world: RuntimeWorld) -> None:
    container = world.started("sleep", "1000", readonly_rootfs=True)
    with pytest.raises(InvalidParameter, match="container rootfs is marked read-only"):
        world.run(copy_in(container, "/etc", "new", b""))
    world.run(world.containers.kill(container, "KILL"))
    world.until_state(container, State.EXITED)
    with pytest.raises(InvalidParameter, match="container rootfs is marked read-only"):
        world.run(copy_in(container, "/etc", "new", b""))


def test_a_diff_shows_what_the_container_has_done_and_nothing_else(world: RuntimeWorld) -> None:
    container = world.started("sleep", "1000", binds=("of-diff:/mnt/deep",))
    assert world.run(changes(container, container.lowers)) == []
    world.exec(container, "sh", "-c", "echo x > /etc/passwd; rm /etc/group; mkdir /new; touch /new/file")
    found = [(int(change.kind), change.path) for change in world.run(changes(container, container.lowers))]
    assert found == [(0, "/etc"), (2, "/etc/group"), (0, "/etc/passwd"), (1, "/new"), (1, "/new/file")]


def test_an_export_is_the_whole_root(world: RuntimeWorld) -> None:
    container = world.started("sleep", "1000")
    world.exec(container, "touch", "/made")
    with tarfile.open(fileobj=io.BytesIO(world.run(collected(export(container))))) as archive:
        names = archive.getnames()
    assert {"bin/busybox", "bin/sh", "etc/passwd", "made"} <= set(names)
    assert not any(name.startswith(("proc/", "sys/")) for name in names)


def test_top_and_stats_are_the_container_s(world: RuntimeWorld) -> None:
    container = world.started("sh", "-c", "sleep 1000 & while true; do :; done", network="bridge")
    world.until(lambda: "sleep 1000" in [row[1] for row in world.run(top(container, "-o pid,args")).processes], "a child")
    assert len(world.run(top(container)).processes) == 2

    async def sampled() -> list[dict[str, object]]:
        return [sample async for sample in stats(container, stream=False, one_shot=False)]

    (sample,) = world.run(sampled())
    used, before = sample["cpu_stats"], sample["precpu_stats"]
    assert isinstance(used, dict)
    assert isinstance(before, dict)
    share = (used["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]) / 1e9
    assert 0.1 < share < 1.5
    assert sample["networks"]
    assert sample["pids_stats"] == {"current": 2}
    world.run(world.containers.kill(container, "KILL"))
    world.until_state(container, State.EXITED)
    with pytest.raises(Conflict, match="is not running"):
        world.run(top(container))
    (sample,) = world.run(sampled())
    assert sample["cpu_stats"] == sample["precpu_stats"]
