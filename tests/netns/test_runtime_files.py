"""`docker cp`, export and volumes against the real kernel: mount namespaces, read-only mounts, devices, races."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from flanneld.linux.netns import unmount
from runtime.containers.archive import Extraction, get_archive, put_archive, stat_path
from runtime.containers.changes import Change, Kind, list_changes
from runtime.containers.container import Container
from runtime.containers.export import export
from runtime.containers.record import MountPoint
from runtime.containers.stats import stats
from runtime.containers.top import top
from runtime.errors import Conflict, EngineError, InvalidParameter, NotFound
from runtime.events import Events
from runtime.layout import Layout
from runtime.linux.cgroups import Cgroup
from runtime.linux.mountinfo import is_mounted
from runtime.volumes import Volumes
from runtime_files_world import RootedContainer, make_container, running

TMP = "/tmp"  # noqa: S108 - the container's
PLAIN = Extraction(no_overwrite_dir_non_dir=True)


def as_container(container: RootedContainer) -> Container:
    return cast("Container", container)


async def get(container: RootedContainer, path: str) -> tarfile.TarFile:
    _, chunks = await get_archive(as_container(container), path)
    return tarfile.open(fileobj=io.BytesIO(b"".join([chunk async for chunk in chunks])))


def tar_of(files: dict[str, bytes], **fields: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


async def put(container: RootedContainer, path: str, data: bytes, how: Extraction = PLAIN) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]

    await put_archive(as_container(container), path, pieces(), how)


@pytest.fixture
def volume(tmp_path: Path) -> MountPoint:
    source = tmp_path / "volume"
    source.mkdir()
    (source / "inside").write_text("of the volume")
    return MountPoint(type="volume", source=str(source), target="/data", name="v")


@contextmanager
def alive(container: RootedContainer, is_running: bool) -> Iterator[None]:
    if not is_running:
        yield
        return
    with running(container):
        yield


@pytest.mark.parametrize("is_running", [False, True])
async def test_volumes_are_seen_whether_the_container_runs_or_not(tmp_path: Path, volume: MountPoint, is_running: bool) -> None:
    container = make_container(tmp_path, volume)
    with alive(container, is_running):
        assert (await get(container, "/data")).getnames() == ["data", "data/inside"]
        await put(container, "/data/", tar_of({"new": b"x" * 5000}))
        assert (await stat_path(as_container(container), "/data/new")).size == 5000
    assert (Path(volume.source) / "new").read_bytes() == b"x" * 5000
    assert list((container.root / "data").iterdir()) == []


async def test_a_running_container_s_tmpfs_is_seen_and_its_proc_is_not_packed(tmp_path: Path) -> None:
    container = make_container(tmp_path)
    with running(container):
        await put(container, "/shm", tar_of({"new": b"x"}))
        assert "shm/new" in (await get(container, "/shm")).getnames()
        whole = (await get(container, "/")).getnames()
    assert "/etc/passwd" in whole
    assert [name for name in whole if name.startswith("/proc")] == ["/proc"]


@pytest.mark.parametrize("is_running", [False, True])
async def test_links_end_inside_the_container(tmp_path: Path, is_running: bool) -> None:
    container = make_container(tmp_path)
    (container.root / "out").symlink_to("/../../../../../etc")
    (container.root / "up").symlink_to("../" * 20 + "etc/passwd")
    with alive(container, is_running):
        assert (await get(container, "/out/")).getnames() == ["out", "out/passwd"]
        assert (await get(container, "/out")).getmember("out").issym()
        assert (await stat_path(as_container(container), "/up")).link_target == "/etc/passwd"
        await put(container, "/out", tar_of({"tartan-escaped": b"x"}))
    assert (container.root / "etc/tartan-escaped").exists()
    assert "tartan-escaped" not in os.listdir("/etc")


@pytest.mark.parametrize("is_running", [False, True])
async def test_what_is_not_there_is_told_in_docker_s_words(tmp_path: Path, is_running: bool) -> None:
    container = make_container(tmp_path)
    with alive(container, is_running):
        for path in ("/none", "/none/deeper", "/etc/none"):
            with pytest.raises(NotFound, match=f"Could not find the file {path} in container files"):
                await get(container, path)
        with pytest.raises(NotFound, match="Could not find the file /none in container files"):
            await put(container, "/none", tar_of({"a": b""}))
        with pytest.raises(InvalidParameter, match="extraction point is not a directory"):
            await put(container, "/etc/passwd", tar_of({"a": b""}))
        with pytest.raises(InvalidParameter, match="not a directory"):
            await get(container, "/etc/passwd/")


async def test_proc_s_links_to_the_host_are_not_followed(tmp_path: Path) -> None:
    container = make_container(tmp_path)
    with running(container) as pid:
        for path in (f"/proc/{os.getpid()}/root/", f"/proc/{os.getpid()}/cwd/etc", f"/proc/{pid}/root/"):
            with pytest.raises((InvalidParameter, NotFound)):
                await get(container, path)


async def test_a_read_only_root_refuses_and_its_volumes_do_not(tmp_path: Path, volume: MountPoint) -> None:
    container = make_container(tmp_path, volume, read_only=True)
    with pytest.raises(InvalidParameter, match="container rootfs is marked read-only"):
        await put(container, "/etc", tar_of({"new": b""}))
    await put(container, "/data", tar_of({"new": b""}))
    assert not (container.root / "etc/new").exists()


@pytest.mark.parametrize("is_running", [False, True])
async def test_a_read_only_volume_refuses(tmp_path: Path, is_running: bool) -> None:
    (tmp_path / "volume").mkdir()
    point = MountPoint(type="bind", source=str(tmp_path / "volume"), target="/data", writable=False)
    container = make_container(tmp_path, point)
    with alive(container, is_running), pytest.raises(InvalidParameter, match="mounted volume is marked read-only"):
        await put(container, "/data", tar_of({"new": b""}))
    assert list((tmp_path / "volume").iterdir()) == []


async def test_owners_are_the_archive_s_or_the_container_s_user(tmp_path: Path) -> None:
    container = make_container(tmp_path, user="app")
    await put(container, TMP, tar_of({"theirs": b""}, uid=77, gid=78, mode=0o4755))
    await put(container, TMP, tar_of({"ours": b""}, uid=77, gid=78), Extraction(copy_uid_gid=True))
    theirs, ours = (container.root / "tmp/theirs").stat(), (container.root / "tmp/ours").stat()
    assert (theirs.st_uid, theirs.st_gid, stat.S_IMODE(theirs.st_mode)) == (77, 78, 0o4755)
    assert (ours.st_uid, ours.st_gid) == (1234, 5678)


async def test_a_mounted_file_is_overwritten_in_place(tmp_path: Path) -> None:
    container = make_container(tmp_path)
    (container.directory / "hosts").write_text("old")
    (container.root / "etc/hosts").touch()
    await put(container, "/etc", tar_of({"hosts": b"new"}))
    assert (container.directory / "hosts").read_text() == "new"
    assert (container.root / "etc/hosts").read_text() == ""
    assert (await get(container, "/etc/hosts")).getmember("hosts").size == 3


async def test_devices_and_fifos_go_through_and_nobody_waits_for_them(tmp_path: Path) -> None:
    container = make_container(tmp_path)
    os.mkfifo(container.root / "tmp/fifo")
    os.mknod(container.root / "tmp/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    async with asyncio.timeout(5):
        _, chunks = await get_archive(as_container(container), TMP)
        await put(container, "/etc", b"".join([chunk async for chunk in chunks]))
    assert stat.S_ISFIFO((container.root / "etc/tmp/fifo").stat().st_mode)
    assert (container.root / "etc/tmp/null").stat().st_rdev == os.makedev(1, 3)


@contextmanager
def swapping(path: Path, target: str) -> Iterator[None]:
    """`path` is by turns a directory and a link to `target`, as fast as a thread can."""
    done = threading.Event()

    def swap() -> None:
        beside = path.with_name("beside")
        while not done.is_set():
            with suppress(OSError):
                path.rename(beside)
                path.symlink_to(target)
                path.unlink()
                beside.rename(path)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


async def test_a_container_that_swaps_links_gets_and_gives_nothing_of_the_host(tmp_path: Path) -> None:
    """CVE-2018-15664."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("the host's")
    container = make_container(tmp_path)
    (container.root / "dir").mkdir()
    (container.root / "dir/file").write_text("ours")
    seen = set()
    with swapping(container.root / "dir", str(tmp_path / "outside")):
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            with suppress(EngineError):
                archive = await get(container, "/dir/file")
                member = archive.extractfile("file")
                seen.add(member.read() if member else None)
            with suppress(EngineError):
                await put(container, "/dir", tar_of({"evil": b"x", "sub/evil": b"x"}))
            with suppress(EngineError):
                await put(container, "/", tar_of({"dir/evil": b"x"}))
    assert seen <= {b"ours"}
    assert os.listdir(tmp_path / "outside") == ["file"]


async def test_a_client_that_leaves_ends_the_work(tmp_path: Path) -> None:
    container = make_container(tmp_path)
    (container.root / "tmp/large").touch()
    os.truncate(container.root / "tmp/large", 8 << 30)
    _, chunks = await get_archive(as_container(container), TMP)
    assert await anext(chunks)
    async with asyncio.timeout(5):
        await chunks.aclose()

    async def broken() -> AsyncIterator[bytes]:
        yield tar_of({"half": b"x" * 100_000})[:50_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await put_archive(as_container(container), TMP, broken(), PLAIN)
    assert threading.active_count() < 20


async def test_an_export_is_the_root_without_what_is_mounted(tmp_path: Path, volume: MountPoint) -> None:
    container = make_container(tmp_path, volume)
    with running(container):
        data = b"".join([chunk async for chunk in export(as_container(container))])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
    assert {"etc", "etc/passwd", "data", "proc"} <= set(names)
    assert "data/inside" not in names


async def test_processes_and_use_are_those_of_the_container(tmp_path: Path) -> None:
    container = make_container(tmp_path)
    directories = Cgroup.at(container.record.cgroup).directories
    group = directories.get("pids") or directories[""]
    with pytest.raises(Conflict, match="is not running"):
        await top(as_container(container))
    assert [sample["read"][:4] async for sample in stats(as_container(container), stream=False, one_shot=False)] == ["0001"]
    group.parent.mkdir(exist_ok=True)  # the engine's, which stays
    group.mkdir()
    try:
        with running(container) as pid:
            (group / "cgroup.procs").write_text(str(pid))
            shown = await top(as_container(container), "-o pid,comm")
            samples = [sample async for sample in stats(as_container(container), stream=False, one_shot=False)]
    finally:
        group.rmdir()
    assert (shown.titles, shown.processes) == (("PID", "COMMAND"), ((str(pid), "pause"),))
    (sample,) = samples
    assert (sample["pids_stats"]["current"], sample["name"]) == (1, "/files")
    assert sample["cpu_stats"]["system_cpu_usage"] > sample["precpu_stats"]["system_cpu_usage"] > 0


def overlay(tmp_path: Path, *lowers: Path) -> Path:
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={':'.join(map(str, lowers))},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(tmp_path / "merged")], check=True)
    return tmp_path / "merged"


def test_changes_are_what_was_done_to_the_overlay(tmp_path: Path) -> None:
    top_layer, bottom = tmp_path / "top", tmp_path / "bottom"
    for path in ("etc/kept", "etc/gone", "etc/edited", "etc/touched", "old/a", "old/b", "var/deep/down/file"):
        (bottom / path).parent.mkdir(parents=True, exist_ok=True)
        (bottom / path).write_text("below")
    (top_layer / "etc").mkdir(parents=True)
    os.mknod(top_layer / "etc/kept", stat.S_IFCHR, 0)
    root = overlay(tmp_path, top_layer, bottom)
    try:
        (root / "etc/kept").write_text("was removed by the layer above")
        (root / "etc/gone").unlink()
        (root / "etc/edited").write_text("edited")
        (root / "etc/touched").open("r+").close()
        subprocess.run(["rm", "-r", root / "old"], check=True)
        (root / "old").mkdir()
        (root / "old/b").write_text("new b")
        (root / "var/deep/down/file").unlink()
        (root / "new/sub").mkdir(parents=True)
    finally:
        unmount(root)
    found = list_changes(tmp_path / "upper", (top_layer, bottom))
    modified, added, deleted = Kind.MODIFIED, Kind.ADDED, Kind.DELETED
    assert [(change.kind, change.path) for change in found] == [
        (modified, "/etc"),
        (modified, "/etc/edited"),
        (deleted, "/etc/gone"),
        (added, "/etc/kept"),
        (added, "/new"),
        (added, "/new/sub"),
        (modified, "/old"),
        (deleted, "/old/a"),
        (modified, "/old/b"),
        (modified, "/var"),
        (modified, "/var/deep"),
        (modified, "/var/deep/down"),
        (deleted, "/var/deep/down/file"),
    ]


def test_a_writable_layer_of_nothing_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    assert list_changes(tmp_path / "upper", ()) == []
    (tmp_path / "upper/a").touch()
    assert list_changes(tmp_path / "upper", ()) == [Change(Kind.ADDED, "/a")]


async def test_a_volume_with_options_is_mounted_while_somebody_uses_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root", tmp_path / "run")
    volumes = Volumes(layout, Events())
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=77"}
    await volumes.create("scratch", options=options)
    path = volumes.path("scratch")
    try:
        assert await volumes.mount("scratch", "one") == await volumes.mount("scratch", "two") == path
        assert (is_mounted(path), path.stat().st_uid) == (True, 77)
        (path / "file").touch()
        await volumes.unmount("scratch", "one")
        await volumes.unmount("scratch", "one")
        assert is_mounted(path)
        again = Volumes(layout, Events())
        await again.load()
        await again.mount("scratch", "two")
        assert (path / "file").exists()
        await again.unmount("scratch", "two")
        assert not is_mounted(path)
    finally:
        unmount(path)


async def test_a_mount_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    volumes = Volumes(Layout(tmp_path / "root", tmp_path / "run"), Events())
    await volumes.create("bad", options={"type": "none", "device": "/no/such/dir", "o": "bind"})
    with pytest.raises(EngineError, match=r"failed to mount local volume: mount: .*no/such/dir"):
        await volumes.mount("bad", "one")
    await volumes.remove("bad", False, lambda _: [])


async def test_copy_up_keeps_owners_devices_and_attributes(tmp_path: Path) -> None:
    volumes = Volumes(Layout(tmp_path / "root", tmp_path / "run"), Events())
    await volumes.create("data")
    source = tmp_path / "image"
    source.mkdir()
    os.chown(source, 33, 44)
    (source / "bin").write_text("x")
    os.chown(source / "bin", 55, 66)
    (source / "bin").chmod(0o4755)
    os.setxattr(source / "bin", "user.note", b"n")
    os.mknod(source / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    await volumes.populate("data", source)
    path = volumes.path("data")
    assert (path.stat().st_uid, path.stat().st_gid) == (33, 44)
    found = (path / "bin").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (55, 66, 0o4755)
    assert os.getxattr(path / "bin", "user.note") == b"n"
    assert (path / "null").stat().st_rdev == os.makedev(1, 3)
