from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.clock import text_of
from runtime.containers.log_lines import LogLine, parse_line
from runtime.containers.logs import LogQuery, read_logs

EVERYTHING = LogQuery()
NOON = 1_790_000_000_000_000_000


def entry(text: str, stream: str = "stdout", time_ns: int = NOON) -> bytes:
    return json.dumps({"log": text, "stream": stream, "time": text_of(time_ns)}).encode() + b"\n"


def numbered(numbers: range) -> bytes:
    return b"".join(entry(f"{number}\n", time_ns=NOON + number) for number in numbers)


async def read(path: Path, query: LogQuery = EVERYTHING, running: Callable[[], bool] = lambda: False) -> list[LogLine]:
    return [line async for line in read_logs(path, query, running)]


def texts(lines: list[LogLine]) -> list[str]:
    return [line.data.decode() for line in lines]


@pytest.fixture
def rotated(tmp_path: Path) -> Path:
    """Lines 0 to 99 in five files."""
    path = tmp_path / "a.log"
    for age in range(5):
        name = path if age == 0 else path.with_name(f"a.log.{age}")
        name.write_bytes(numbered(range(80 - 20 * age, 100 - 20 * age)))
    return path


def test_both_formats_are_the_same_lines() -> None:
    cri = f"{text_of(NOON + 5)} stderr F hello".encode()
    json_file = entry("hello\n", "stderr", NOON + 5).rstrip()
    assert parse_line(cri) == parse_line(json_file) == LogLine(2, NOON + 5, b"hello\n")


@pytest.mark.parametrize(
    "written", [b"", b"{", b'{"log":1}', b'{"log":"a","stream":"x","time":"y"}', b"2026 stdout F", b"\xff\xfe"]
)
def test_a_broken_entry_is_no_line(written: bytes) -> None:
    assert parse_line(written) is None


@given(st.binary(max_size=60))
def test_any_bytes_are_a_line_or_none(written: bytes) -> None:
    parse_line(written)


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1Z", "2026-01-02T05:04:05.100+02:00"])
def test_times_of_any_precision_are_understood(text: str) -> None:
    line = parse_line(f"{text} stdout F x".encode())
    assert line is not None
    assert line.time_ns // 10**9 == 1767323045


async def test_rotated_files_are_read_oldest_first(rotated: Path) -> None:
    assert texts(await read(rotated)) == [f"{number}\n" for number in range(100)]


@pytest.mark.parametrize("tail", [0, 1, 19, 20, 21, 55, 99, 100, 1000])
async def test_tail_counts_over_rotated_files(rotated: Path, tail: int) -> None:
    assert texts(await read(rotated, LogQuery(tail=tail))) == [f"{number}\n" for number in range(100 - min(tail, 100), 100)]


async def test_tail_of_a_large_file_is_not_a_read_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(numbered(range(100_000)))
    started = time.perf_counter()
    assert texts(await read(path, LogQuery(tail=2))) == ["99998\n", "99999\n"]
    assert time.perf_counter() - started < 0.1


async def test_a_line_in_pieces_is_one_for_tail_and_starts_once(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(entry("first\n") + entry("lo") + entry("ng") + entry("er\n"))
    lines = await read(path, LogQuery(tail=1))
    assert [(line.data, line.starts) for line in lines] == [(b"lo", True), (b"ng", False), (b"er\n", False)]


async def test_output_without_a_last_newline_counts_as_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(entry("first\n") + entry("second"))
    assert texts(await read(path, LogQuery(tail=1))) == ["second"]


async def test_since_and_until_are_included(rotated: Path) -> None:
    lines = await read(rotated, LogQuery(since_ns=NOON + 10, until_ns=NOON + 12))
    assert texts(lines) == ["10\n", "11\n", "12\n"]


async def test_streams_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(entry("out\n") + entry("err\n", "stderr"))
    assert texts(await read(path, LogQuery(stdout=False))) == ["err\n"]


async def test_what_a_power_cut_has_left_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(entry("a\n") + b'{"log":"b' + b"\0" * 50 + b"\n" + entry("c\n") + b'{"lo')
    assert texts(await read(path)) == ["a\n", "c\n"]


async def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert await read(tmp_path / "none") == []


async def test_follow_goes_through_rotations_and_ends_with_the_container(tmp_path: Path) -> None:
    path, running, sent = tmp_path / "a.log", True, 0
    path.write_bytes(b"")
    reader = asyncio.create_task(read(path, LogQuery(follow=True), lambda: running))
    for round_ in range(8):
        with path.open("ab") as log:
            log.write(numbered(range(sent, sent + 50)))
        sent += 50
        await asyncio.sleep(0.005 * (round_ % 3))
        for age in range(3, -1, -1):  # sometimes twice between two looks of the reader
            old = path if age == 0 else path.with_name(f"a.log.{age}")
            if old.exists():
                old.rename(path.with_name(f"a.log.{age + 1}"))
        path.write_bytes(b"")
        await asyncio.sleep(0.03 * (round_ % 2))
    path.write_bytes(entry("last\n"))
    running = False
    assert texts(await reader) == [*(f"{number}\n" for number in range(sent)), "last\n"]


async def test_follow_survives_a_truncation(tmp_path: Path) -> None:
    path, running = tmp_path / "a.log", True
    path.write_bytes(numbered(range(100)))
    lines = read_logs(path, LogQuery(follow=True, tail=1), lambda: running)
    assert (await anext(lines)).data == b"99\n"
    path.write_bytes(entry("again\n"))
    assert (await anext(lines)).data == b"again\n"
    await lines.aclose()


async def test_follow_with_until_ends_at_that_time(tmp_path: Path) -> None:
    query = LogQuery(follow=True, until_ns=time.time_ns() + 50_000_000)
    assert await asyncio.wait_for(read(tmp_path / "none", query, lambda: True), 2) == []


async def test_a_reader_that_is_cancelled_lets_go_of_the_files(rotated: Path) -> None:
    reader = asyncio.create_task(read(rotated, LogQuery(follow=True), lambda: True))
    await asyncio.sleep(0.05)
    assert any("a.log" in name for name in open_files())
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert not any("a.log" in name for name in open_files())


def open_files() -> list[str]:
    return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]


async def test_a_hundred_thousand_lines_a_second(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(numbered(range(100_000)))
    started = time.process_time()
    async with aclosing(read_logs(path, LogQuery(), lambda: False)) as lines:
        assert sum([1 async for _ in lines]) == 100_000
    assert time.process_time() - started < 2  # half of that speed is left for a busy machine
