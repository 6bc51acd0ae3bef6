"""The journal against torn writes, damage, full disks and other processes."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import journal as module
from cni.journal import Journal, JournalBusy, JournalError, read_journal

ENTRIES: list[dict[str, Any]] = [{"n": 1}, {"text": "ü\n\0"}, {}, {"list": [1, None, {"a": "b"}]}, {"n": 5}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


@contextmanager
def file_size_limit(count: int) -> Iterator[None]:
    """No file of this process may grow beyond that: a disk that is full."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def written(path: Path, entries: list[dict[str, Any]]) -> bytes:
    with Journal(path) as journal:
        for entry in entries:
            journal.append(entry)
    return path.read_bytes()


def entries_of(path: Path) -> list[dict[str, Any]]:
    return list(read_journal(path).entries)


def test_what_is_appended_is_read_again(path: Path) -> None:
    written(path, ENTRIES[:2])
    written(path, ENTRIES[2:])
    contents = read_journal(path)
    assert list(contents.entries) == ENTRIES
    assert (contents.boot, contents.damaged, contents.bytes) == (module.boot_id(), 0, path.stat().st_size)


def test_no_file_is_an_empty_journal(path: Path) -> None:
    assert read_journal(path) == module.Contents()


def test_nobody_else_may_read_it(path: Path) -> None:
    written(path, ENTRIES)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_torn_at_every_byte_it_reads_as_a_prefix(path: Path) -> None:
    whole = written(path, ENTRIES)
    seen = set()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        contents = read_journal(path)
        assert list(contents.entries) == ENTRIES[: len(contents.entries)]
        assert contents.damaged == 0
        seen.add(len(contents.entries))
    assert seen == set(range(len(ENTRIES) + 1))


def test_torn_at_every_byte_it_is_written_on_as_if_the_torn_line_had_never_been(path: Path) -> None:
    whole = written(path, ENTRIES[:2])
    for length in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:length])
        before = entries_of(path)
        written(path, [{"new": True}])
        assert entries_of(path) == [*before, {"new": True}]
        assert read_journal(path).boot == module.boot_id()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_journal(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "journal"
    path.write_bytes(data)
    before = entries_of(path)
    written(path, [{"n": 1}])
    assert entries_of(path) == [*before, {"n": 1}]


@pytest.mark.parametrize("damage", [b"", b"00000000 {}", b"\0" * 40, b"zz"])
def test_a_damaged_line_in_the_middle_costs_only_itself(path: Path, damage: bytes) -> None:
    lines = written(path, ENTRIES).split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]))
    assert entries_of(path) == [ENTRIES[0], *ENTRIES[2:]]
    assert read_journal(path).damaged == 1


def test_a_damaged_first_line_costs_no_entry_for_good(path: Path) -> None:
    lines = written(path, ENTRIES).split(b"\n")
    path.write_bytes(b"\n".join([b"damaged", *lines[1:]]))
    assert written(path, [{"n": 6}])
    assert entries_of(path) == [*ENTRIES, {"n": 6}]


def test_a_second_one_is_refused_until_the_first_is_closed(path: Path) -> None:
    with Journal(path), pytest.raises(JournalBusy, match=r"journal\.lock is locked by another process"):
        Journal(path)
    with Journal(path):
        pass


def test_one_may_wait_for_the_other(path: Path) -> None:
    first = Journal(path)
    threading.Timer(0.2, first.close).start()
    with Journal(path, patience_s=10) as second:
        second.append({"n": 1})


def test_reading_needs_no_lock(path: Path) -> None:
    with Journal(path) as journal:
        journal.append({"n": 1})
        assert entries_of(path) == [{"n": 1}]


def test_a_journal_that_cannot_be_opened_leaves_no_lock(path: Path) -> None:
    path.mkdir(parents=True)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(JournalError, match="is a directory"):
            Journal(path)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    path.rmdir()
    written(path, ENTRIES)


def test_a_full_disk_refuses_an_entry_whole_and_takes_the_next(path: Path) -> None:
    before = written(path, ENTRIES)
    with Journal(path) as journal:
        with file_size_limit(len(before) + 20), pytest.raises(JournalError, match=rf"journal {path}: "):
            journal.append({"long": "x" * 100})
        assert path.read_bytes() == before
        journal.append({"n": 6})
    assert entries_of(path) == [*ENTRIES, {"n": 6}]


def test_a_rewrite_is_all_or_nothing(path: Path) -> None:
    before = written(path, ENTRIES)
    with Journal(path) as journal:
        with file_size_limit(len(before)), pytest.raises(JournalError):
            journal.rewrite({"n": n} for n in range(100))
        assert path.read_bytes() == before
        assert {file.name for file in path.parent.iterdir()} == {"journal", "journal.lock", "journal.spare"}
        journal.append({"n": 6})
        journal.rewrite([{"n": 7}])
        journal.append({"n": 8})
        assert journal.lines == 2
    assert entries_of(path) == [{"n": 7}, {"n": 8}]


def test_a_rewrite_that_died_half_way_is_no_matter(path: Path) -> None:
    written(path, ENTRIES)
    path.with_suffix(".new").write_bytes(b"half a")
    with Journal(path) as journal:
        journal.rewrite(ENTRIES[:1])
    assert entries_of(path) == ENTRIES[:1]


def test_a_directory_that_cannot_be_synced_does_not_lose_what_comes_after(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "input/output error")

    with Journal(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_sync_directory", fail)
            with pytest.raises(JournalError):
                journal.rewrite([{"n": 1}])
        journal.append({"n": 2})
    assert entries_of(path) == [{"n": 1}, {"n": 2}]


def test_another_boot_is_told_until_the_journal_is_written_anew(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, ENTRIES)
    first = module.boot_id()
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(module, "BOOT_ID", tmp_path / "boot_id")
    with Journal(path) as journal:
        assert journal.contents.boot == first != module.boot_id()
        journal.append({"n": 6})
        assert read_journal(path).boot == first
        journal.rewrite([{"n": 7}])
    assert read_journal(path).boot == "another"


def test_settle_waits_for_the_disk_once_for_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[float] = []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(time.monotonic()))
    with Journal(path) as journal:
        for n in range(50):
            journal.append({"n": n})
        journal.settle()
        assert 1 <= len(synced) <= 3
        journal.settle()


def test_settle_says_what_the_disk_said_and_later_succeeds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(5, "input/output error")

    with Journal(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            journal.append({"n": 1})
            with pytest.raises(JournalError, match="input/output error"):
                journal.settle()
        assert entries_of(path) == [{"n": 1}]
        time.sleep(1.1)  # it tries again once a second
        journal.settle()


def test_threads_append_whole_lines(path: Path) -> None:
    with Journal(path) as journal, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: journal.append({"n": pair}), [[k, n] for n in range(50) for k in range(8)]))
    found = [entry["n"] for entry in entries_of(path)]
    assert sorted(found) == [[k, n] for k in range(8) for n in range(50)]
    assert read_journal(path).damaged == 0


def test_the_lock_is_not_inherited_by_children(path: Path) -> None:
    with Journal(path) as journal:
        assert all(fcntl.fcntl(file, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for file in (journal._lock, journal._file))
