"""A monitor with the real runc: what only an OCI runtime's processes show."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.containers.monitor import StartFailed, read_exit
from runtime.errors import EngineError
from runtime.linux.oci import RuncError
from runtime_monitor_world import MonitorWorld, everything, frame, is_alive, logged, monitor_world, process_file, said, until


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MonitorWorld]:
    async with monitor_world(tmp_path) as made:
        yield made


async def text_until(reader: asyncio.StreamReader, expected: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(5):
        while expected not in found:
            found += await reader.read(4096) or pytest.fail(f"the end after {found!r}")
    return found


async def test_a_container_runs_says_what_it_has_to_and_ends(world: MonitorWorld) -> None:
    monitor = await world.container(
        "busybox", "sh", "-c", "echo $$; busybox cat; exit 3", stdin=True, stdin_once=True, log=world.log("c")
    )
    client = await everything(monitor)
    pid = await monitor.start()
    client.writer.write(b"hello\n")
    client.writer.write_eof()
    assert await said(client) == {1: b"1\nhello\n", 2: b""}
    assert (await monitor.exited()).code == 3
    assert logged(world.top / "c/log") == "1\nhello\n"
    assert not is_alive(pid)


async def test_a_terminal_has_the_size_that_was_asked_for_before_it_was_there(world: MonitorWorld) -> None:
    script = "busybox stty size; busybox tty; read x; busybox stty size; exit 4"
    monitor = await world.container("busybox", "sh", "-c", script, tty=True, stdin=True, log=world.log("c"))
    client = await everything(monitor)
    await monitor.resize(33, 99)
    await monitor.start()
    assert await text_until(client.reader, b"/dev/pts/0\r\n") == b"33 99\r\n/dev/pts/0\r\n"
    await monitor.resize(10, 20)
    client.writer.write(b"x\n")
    assert await client.reader.read() == b"x\r\n10 20\r\n"
    client.writer.close()
    assert (await monitor.exited()).code == 4
    assert logged(world.top / "c/log").endswith("x\r\n10 20\r\n")


async def test_a_terminal_that_nobody_has_open_for_a_while_comes_back(world: MonitorWorld) -> None:
    script = "exec <&- >&- 2>&-; busybox sleep 0.2; exec >/dev/console; echo back; busybox head -c 60000 /dev/zero; echo; echo last"
    monitor = await world.container("busybox", "sh", "-c", script, tty=True, log=world.log("c"))
    client = await everything(monitor)
    await monitor.start()
    text = await client.reader.read()
    client.writer.close()
    assert text == b"back\r\n" + bytes(60_000) + b"\r\nlast\r\n"
    assert len(logged(world.top / "c/log")) == len(text)


async def test_two_processes_of_one_container_end_separately(world: MonitorWorld) -> None:
    monitor = await world.container("busybox", "sleep", "30")
    await monitor.start()
    added = await world.exec("c", "busybox", "sh", "-c", "echo in; echo $PPID >&2; kill -9 $$")
    client = await everything(added)
    await added.start()
    assert await said(client) == {1: b"in\n", 2: b"0\n"}
    assert (await added.exited()).code == 128 + 9
    await monitor.signal(signal.SIGKILL)
    assert (await monitor.exited()).code == 128 + 9


@pytest.mark.parametrize(
    ("program", "words", "code"),
    [
        (
            "nope",
            r'runc create failed: unable to start container process: exec: "nope": executable file not found in \$PATH: unknown',
            127,
        ),
        ("/bin/unfit", 'exec: "/bin/unfit": permission denied: unknown', 126),
    ],
)
async def test_a_program_that_cannot_be_run_is_told_in_dockers_words(
    world: MonitorWorld, program: str, words: str, code: int
) -> None:
    monitor = await world.container(program, log=world.log("c"))
    client = await everything(monitor)
    with pytest.raises(StartFailed, match=f"^failed to create task.*OCI runtime create failed: .*{words}$") as failure:
        await monitor.start()
    assert failure.value.code == code
    assert await said(client) == {1: b"", 2: b""}
    assert (world.top / "c/log").read_text() == ""
    end = await monitor.exited()
    assert read_exit(world.top / "c") == end


async def test_an_exec_that_cannot_be_run_leaves_the_container_alone(world: MonitorWorld) -> None:
    monitor = await world.container("busybox", "sleep", "30", tty=True)
    await monitor.start()
    added = await world.exec("c", "nope")
    with pytest.raises(
        StartFailed, match=r'^OCI runtime exec failed: exec failed: .*"nope": executable file not found in \$PATH: unknown$'
    ):
        await added.start()
    assert (await world.runc.state(world.containers[0]) or {})["status"] == "running"


async def test_strays_in_the_hosts_process_namespace_do_not_hold_up_the_end(world: MonitorWorld) -> None:
    script = "busybox sleep 30 & echo $!; exit 2"
    monitor = await world.container("busybox", "sh", "-c", script, namespaces=("mount", "ipc", "uts"), log=world.log("c"))
    await monitor.start()
    assert (await asyncio.wait_for(monitor.exited(), 4)).code == 2
    stray = int(logged(world.top / "c/log"))
    assert is_alive(stray)
    await world.runc.delete(world.containers[0])
    await until(lambda: not is_alive(stray))


async def test_runc_does_what_it_is_asked_and_says_what_it_cannot(world: MonitorWorld) -> None:
    monitor = await world.container("busybox", "sh", "-c", "echo; while :; do busybox sleep 1; done")
    client = await everything(monitor)
    pid = await monitor.start()
    await frame(client)
    runc, container_id = world.runc, world.containers[0]
    assert pid in await runc.ps(container_id)
    await runc.pause(container_id)
    assert (await runc.state(container_id) or {})["status"] == "paused"
    await runc.resume(container_id)
    await runc.update(container_id, {"pids": {"limit": 50}})
    with pytest.raises(RuncError):
        await runc.resume(container_id)
    await runc.kill(container_id, signal.SIGKILL, everyone=True)
    assert (await monitor.exited()).code == 128 + 9
    await runc.delete(container_id)
    await runc.delete(container_id)
    assert await runc.state(container_id) is None
    with pytest.raises(EngineError, match="does not exist"):
        await runc.kill(container_id, signal.SIGKILL)
    await said(client)


async def test_a_container_inherits_nothing_of_the_monitor(world: MonitorWorld) -> None:
    ours = process_file(os.getpid(), "oom_score_adj")
    monitor = await world.container("busybox", "tail", "-n", "99", *INHERITED, log=world.log("c"))
    await monitor.start()
    await monitor.exited()
    said_of_itself = logged(world.top / "c/log")
    assert said_of_itself.endswith(f"<==\n{ours}")
    assert "SESSION" not in said_of_itself
    for line in ("Umask:\t0022", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"):
        assert line in said_of_itself


INHERITED = ("/proc/self/environ", "/proc/self/status", "/proc/self/oom_score_adj")
