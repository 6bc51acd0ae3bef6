"""A monitor by itself, with bare processes: what it does with streams, logs and ends."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.containers.monitor import Exit, LogSettings, Monitor, NotRunning, StartFailed, read_exit
from runtime.errors import EngineError
from runtime_monitor_world import (
    MonitorWorld,
    engine_that_dies,
    entries,
    everything,
    frame,
    logged,
    monitor_world,
    open_files,
    parent_of,
    process_file,
    said,
    socket_of,
    status_of,
    until,
)

MANY = 5_000_000
"""Bytes: more than all pipes and sockets on their way hold."""
WRITE_MANY = f"yes 0123456789abcdef | head -c {MANY}"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MonitorWorld]:
    async with monitor_world(tmp_path) as made:
        yield made


async def test_output_reaches_the_log_and_every_client_by_stream(world: MonitorWorld) -> None:
    monitor = await world.process("echo out; echo err >&2; exit 7", log=world.log())
    clients = [await everything(monitor), await everything(monitor), await monitor.attach(stdin=False, stdout=False, stderr=True)]
    assert await monitor.start() == monitor.pid
    both = {1: b"out\n", 2: b"err\n"}
    assert [await said(client) for client in clients] == [both, both, {1: b"", 2: b"err\n"}]
    assert (await monitor.exited()).code == 7
    assert [(entry["stream"], entry["log"]) for entry in entries(world.top / "p/log")] == [("stdout", "out\n"), ("stderr", "err\n")]


async def test_who_sees_the_exit_sees_the_whole_log(world: MonitorWorld) -> None:
    monitor = await world.process(WRITE_MANY, log=world.log())
    await monitor.start()
    end = await monitor.exited()
    assert len(logged(world.top / "p/log")) == MANY
    assert read_exit(world.top / "p") == end
    assert abs(end.at_ns - time.time_ns()) < 60e9
    assert not (world.top / "p/attach.sock").exists()


async def test_a_slow_client_loses_nothing_and_nobody_else_does(world: MonitorWorld) -> None:
    monitor = await world.process(WRITE_MANY, log=world.log())
    slow, quick = await everything(monitor), await everything(monitor)
    await monitor.start()
    whole = asyncio.ensure_future(said(quick))
    await asyncio.sleep(0.2)
    assert not whole.done()
    assert len(logged(world.top / "p/log")) < MANY
    assert len((await said(slow))[1]) == len((await whole)[1]) == len(logged(world.top / "p/log")) == MANY


async def test_a_client_that_reads_after_the_end_still_gets_it_all(world: MonitorWorld) -> None:
    monitor = await world.process("head -c 300000 /dev/zero", log=world.log())
    slow, quick = await everything(monitor), await everything(monitor)
    await monitor.start()
    whole = asyncio.ensure_future(said(quick))
    await until(lambda: (world.top / "p/log").stat().st_size > 1_000_000)  # the rest is in a pipe; escaped, each byte takes six
    assert (await asyncio.wait_for(monitor.exited(), 5)).code == 0
    assert len((await whole)[1]) == len((await said(slow))[1]) == 300_000


async def test_a_client_that_goes_away_holds_nobody_up(world: MonitorWorld) -> None:
    monitor = await world.process(WRITE_MANY, log=world.log())
    gone, stays = await everything(monitor), await everything(monitor)
    await monitor.start()
    await frame(gone)
    gone.writer.transport.abort()
    assert len((await said(stays))[1]) == MANY


async def test_an_end_of_a_clients_input_closes_standard_input_once(world: MonitorWorld) -> None:
    monitor = await world.process("cat; echo after", stdin=True, stdin_once=True)
    client = await everything(monitor)
    client.writer.write(b"x" * 200_000)
    client.writer.write_eof()
    await monitor.start()
    assert (await said(client))[1] == b"x" * 200_000 + b"after\n"


async def test_standard_input_stays_open_for_the_next_client(world: MonitorWorld) -> None:
    monitor = await world.process("cat", stdin=True)
    first, second = await everything(monitor), await everything(monitor)
    await monitor.start()
    first.writer.write(b"1")
    first.writer.write_eof()
    assert await frame(first) == await frame(second) == (1, b"1")
    second.writer.write(b"2")
    assert await frame(first) == await frame(second) == (1, b"2")
    await monitor.close_stdin()
    assert (await monitor.exited()).code == 0
    assert await said(first) == await said(second)


async def test_a_process_that_closes_its_input_is_not_fed_and_goes_on(world: MonitorWorld) -> None:
    monitor = await world.process("exec </dev/null; echo ready; sleep 0.2; echo still", stdin=True)
    client = await everything(monitor)
    await monitor.start()
    assert await frame(client) == (1, b"ready\n")
    client.writer.write(b"y" * 300_000)
    await client.writer.drain()
    assert (await said(client))[1] == b"still\n"


async def test_without_standard_input_it_is_empty_and_clients_are_not_heard(world: MonitorWorld) -> None:
    monitor = await world.process("cat; sleep 0.1; echo end")
    client = await everything(monitor)
    client.writer.write(b"nobody reads this")
    await monitor.start()
    assert (await said(client))[1] == b"end\n"


async def test_a_signal_reaches_the_process_and_none_when_it_has_ended(world: MonitorWorld) -> None:
    monitor = await world.process("trap 'echo caught' USR1; echo ready; while :; do sleep 0.05; done")
    with pytest.raises(NotRunning):
        await monitor.signal(signal.SIGTERM)
    client = await everything(monitor)
    await monitor.start()
    assert await frame(client) == (1, b"ready\n")
    await monitor.signal(signal.SIGUSR1)
    assert await frame(client) == (1, b"caught\n")
    with pytest.raises(EngineError, match="invalid argument"):
        await monitor.signal(99)
    await monitor.signal(signal.SIGKILL)
    assert (await monitor.exited()).code == 128 + 9
    with pytest.raises(NotRunning):
        await monitor.signal(signal.SIGTERM)
    with pytest.raises(NotRunning):
        await everything(monitor)
    await said(client)


async def test_log_entries_are_dockers_byte_for_byte(world: MonitorWorld) -> None:
    text = r'a\tb "q" \\ <&> \r \001 \377 \303\251 \342\200\250 \360\237\230\200 \355\240\200 \177'
    monitor = await world.process(f"printf '{text}\\nno end'", log=world.log())
    await monitor.start()
    await monitor.exited()
    first, last = (world.top / "p/log").read_text().splitlines()
    escaped = r"a\u0009b \"q\" \\ \u003c\u0026\u003e \r \u0001 \ufffd é \u2028 😀 \ufffd\ufffd\ufffd " + "\x7f"
    assert first.startswith('{"log":"' + escaped + r'\n","stream":"stdout","time":"20')
    assert json.loads(last)["log"] == "no end"
    assert not json.loads(last)["time"].endswith("0Z")


async def test_long_lines_are_split_as_docker_and_the_kubelet_expect(world: MonitorWorld) -> None:
    monitor = await world.process("head -c 40000 /dev/zero | tr '\\0' x; echo; echo short", log=world.log())
    other = await world.process(
        "head -c 16385 /dev/zero | tr '\\0' x; echo; printf end", name="q", log=world.log("q", format="cri")
    )
    for each in (monitor, other):
        await each.start()
        await each.exited()
    assert [len(entry["log"]) for entry in entries(world.top / "p/log")] == [16384, 16384, 7233, 6]
    lines = [line.split(" ", 3) for line in (world.top / "q/log").read_text().splitlines()]
    assert [(tag, len(text)) for _, _, tag, text in lines] == [("P", 16384), ("F", 1), ("P", 3)]


async def test_a_log_is_rotated_without_losing_a_line(world: MonitorWorld) -> None:
    monitor = await world.process("seq 1000", log=world.log(max_bytes=30_000, max_files=3))
    await monitor.start()
    await monitor.exited()
    files = sorted((world.top / "p").glob("log*"), reverse=True)
    assert [path.name for path in files] == ["log.2", "log.1", "log"]
    assert logged(*files) == "".join(f"{number}\n" for number in range(1, 1001))
    assert max(path.stat().st_size for path in files) < 30_100


async def test_a_log_of_one_file_is_emptied(world: MonitorWorld) -> None:
    monitor = await world.process("seq 1000", log=world.log(max_bytes=30_000))
    await monitor.start()
    await monitor.exited()
    assert logged(world.top / "p/log").endswith("\n1000\n")
    assert [path.name for path in (world.top / "p").glob("log*")] == ["log"]


async def test_a_reopened_log_goes_on_in_a_new_file(world: MonitorWorld) -> None:
    monitor = await world.process("echo one; read x; echo two", stdin=True, log=world.log(format="cri"))
    client = await everything(monitor)
    await monitor.start()
    await frame(client)
    (world.top / "p/log").rename(world.top / "p/old")
    await monitor.reopen_log()
    client.writer.write(b"\n")
    assert await said(client) == {1: b"two\n", 2: b""}
    assert (world.top / "p/old").read_text().endswith("stdout F one\n")
    assert (world.top / "p/log").read_text().endswith("stdout F two\n")


async def test_a_full_disk_costs_the_log_and_nothing_else(world: MonitorWorld) -> None:
    monitor = await world.process(WRITE_MANY, log=LogSettings(Path("/dev/full")))
    client = await everything(monitor)
    await monitor.start()
    assert len((await said(client))[1]) == MANY
    assert (await monitor.exited()).code == 0


async def test_a_process_outlives_the_engine_and_is_found_again(world: MonitorWorld) -> None:
    monitor = await world.process("read x; echo between; read x; exit 5", stdin=True, log=world.log())
    monitor.close()
    directory = world.top / "p"
    await engine_that_dies(ENGINE, str(directory))
    found = await Monitor.reconnect(directory)
    assert found
    assert found.pid == int((directory / "pid").read_text())
    world.monitors.append(found)
    client = await everything(found)
    client.writer.write(b"\n")
    assert await frame(client) == (1, b"between\n")
    client.writer.write(b"\n")
    assert (await found.exited()).code == 5
    assert logged(directory / "log") == "between\n"
    await said(client)
    assert await Monitor.reconnect(directory) is None


ENGINE = """
import asyncio, os, sys
from pathlib import Path
from runtime.containers.monitor import *
sys.path.insert(0, "tests")
from runtime_monitor_world import MonitorWorld

async def main():
    world = MonitorWorld(Path(sys.argv[1]).parent)
    monitor = await world.process("read x; echo between; read x; exit 5", stdin=True, log=world.log())
    await monitor.start()
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_an_end_that_no_engine_saw_is_written_down(world: MonitorWorld) -> None:
    monitor = await world.process("sleep 0.1; echo late; exit 9", log=world.log())
    await monitor.start()
    monitor.close()
    await until(lambda: read_exit(world.top / "p"))
    assert (read_exit(world.top / "p") or Exit(0, 0)).code == 9
    assert logged(world.top / "p/log") == "late\n"


async def test_what_was_never_started_ends_with_its_engine(world: MonitorWorld) -> None:
    monitor = await world.process("echo never")
    client = await everything(monitor)
    monitor.close()
    assert await client.reader.read() == b""
    client.writer.close()
    assert not (world.top / "p/attach.sock").exists()
    assert read_exit(world.top / "p") is None


async def test_strays_that_keep_the_output_open_are_not_waited_for(world: MonitorWorld) -> None:
    monitor = await world.process("sleep 30 & echo $!; exit 3", log=world.log())
    await monitor.start()
    started = time.monotonic()
    assert (await monitor.exited()).code == 3
    assert time.monotonic() - started < 1.5
    os.kill(int(logged(world.top / "p/log")), signal.SIGKILL)


async def test_strays_that_go_on_writing_are_cut_off(world: MonitorWorld) -> None:
    monitor = await world.process("(while :; do echo x; sleep 0.02; done) & echo $!", log=world.log())
    await monitor.start()
    await asyncio.wait_for(monitor.exited(), 4)
    stray = next(line["log"] for line in entries(world.top / "p/log") if line["log"] != "x\n")
    with suppress(ProcessLookupError):  # whose output nobody takes any more
        os.kill(int(stray), signal.SIGKILL)


async def test_a_killed_monitor_is_noticed(world: MonitorWorld) -> None:
    monitor = await world.process("echo $PPID; exec sleep 30", log=world.log())
    client = await everything(monitor)
    await monitor.start()
    os.kill(parent_of(monitor.pid), signal.SIGKILL)
    assert (await asyncio.wait_for(monitor.exited(), 5)).code == 255
    os.kill(monitor.pid, signal.SIGKILL)
    await said(client)


async def test_a_monitor_is_small_and_owns_nothing_of_its_engine(world: MonitorWorld) -> None:
    monitor = await world.process("echo; exec sleep 30", name="small", log=world.log("small"))
    client = await everything(monitor)
    await monitor.start()
    await frame(client)
    monitor_pid = parent_of(monitor.pid)
    assert int(status_of(monitor_pid, "VmRSS")) < 1024  # KiB
    assert process_file(monitor_pid, "cmdline").startswith("tartan-monitor\0small\0")
    assert os.readlink(f"/proc/{monitor_pid}/cwd") == "/"
    assert len(open_files(monitor_pid)) == 11
    assert open_files(monitor.pid) == {"0", "1", "2"}
    assert not int(status_of(monitor.pid, "SigIgn"), 16) & (1 << signal.SIGHUP - 1 | 1 << signal.SIGPIPE - 1)
    client.writer.close()


async def test_a_program_that_is_not_there_is_a_failed_start_told_once(world: MonitorWorld) -> None:
    monitor = await world.launch(world.directory("p"), ["/no/such/runc", "run"], name="p", log=world.log())
    client = await everything(monitor)
    with pytest.raises(StartFailed, match="/no/such/runc: No such file or directory"):
        await monitor.start()
    assert await said(client) == {1: b"", 2: b""}
    assert (await monitor.exited()).code == 128
    assert (world.top / "p/log").read_text() == ""
    with pytest.raises(NotRunning):
        await monitor.start()


async def test_a_directory_that_is_not_there_is_an_engine_error(world: MonitorWorld) -> None:
    with pytest.raises(EngineError, match=r"refuses: .*nowhere: No such file"):
        await world.launch(world.top / "nowhere", ["/bin/true"], name="p")


@pytest.mark.parametrize("nonsense", [b"Z", b"9", b"", b"C" + b"x" * 200, b"Cbogus\nsignal\nresize\n\n\0\nsignal x\n"])
async def test_nonsense_on_the_socket_harms_nobody(world: MonitorWorld, nonsense: bytes) -> None:
    monitor = await world.process("read x; echo fine", stdin=True)
    await monitor.start()
    _, writer = await asyncio.open_unix_connection(socket_of(world.top / "p"))
    writer.write(nonsense)
    client = await everything(monitor)
    writer.close()
    client.writer.write(b"\n")
    assert await said(client) == {1: b"fine\n", 2: b""}


async def test_more_clients_than_there_is_room_for_wait(world: MonitorWorld) -> None:
    monitor = await world.process("read x; echo hello", stdin=True)
    await monitor.start()
    asked = [asyncio.ensure_future(everything(monitor)) for _ in range(200)]
    await until(lambda: sum(client.done() for client in asked) > 100)
    first = [client.result() for client in asked if client.done()]
    assert len(first) < 200
    for client in first[1:]:
        client.writer.close()
    later = [client for client in await asyncio.wait_for(asyncio.gather(*asked), 10) if client not in first[1:]]
    later[-1].writer.write(b"\n")
    assert [await said(client) for client in later] == [{1: b"hello\n", 2: b""}] * len(later)
