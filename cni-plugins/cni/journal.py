"""An append-only file of JSON objects that survives the death of its writer at any byte; must not know what the objects mean.

    crc32 of the JSON as 8 hexadecimal digits, a space, the JSON, a newline

The first line says the format and the boot in which it was written. A last line that is torn is dropped; a damaged one in the
middle is passed over, for each line stands alone. One process at a time has the file open, by a lock beside it that dies with
the process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zlib import crc32

from flanneld import FlanneldError

FORMAT = 1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SPARE_BYTES = 64 << 10
LOCK_POLL_S = 0.01
GATHER_S = 0.02
"""For what else comes: one fdatasync costs as much as a pod. Nobody has to wait for it: a process that dies takes nothing back that
it has written, and what is told is over anyway when the machine stops."""


class JournalError(FlanneldError):
    """The journal cannot be opened, read or written."""


class JournalBusy(JournalError):
    """Another process has the journal open."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal says."""

    entries: tuple[dict[str, Any], ...] = ()
    boot: str = ""
    """The boot id of when the file was begun."""
    damaged: int = 0
    """Lines that could not be read, the torn last one aside."""
    bytes: int = 0
    """Up to the end of the last good line."""


class Journal:
    """A journal opened for writing; safe for threads. What is appended is in the file at once, and on the disk after `settle`."""

    def __init__(self, path: Path, patience_s: float = 0.0) -> None:
        """Wait so long for another process to close it; raises JournalBusy, JournalError."""
        self.path = path
        self._spare = path.with_suffix(".spare")
        self._written = self._synced = 0
        self._failure: OSError | None = None
        self._closing = False
        self._changed = threading.Condition()
        with _translated(path), ExitStack() as undo:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(path.with_suffix(".lock"), patience_s)
            undo.callback(os.close, self._lock)
            self.contents = read_journal(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(lambda: os.close(self._file))
            os.ftruncate(self._file, self.contents.bytes)
            self._bytes = self.contents.bytes
            self.lines = len(self.contents.entries)
            if not self.contents.boot:
                self.rewrite(self.contents.entries)
            else:
                self._keep_spare()
            undo.pop_all()
        self._syncer = threading.Thread(target=self._sync_for_ever, name="journal", daemon=True)
        self._syncer.start()

    def append(self, entry: dict[str, Any]) -> None:
        """Add an object at the end; raises JournalError, and then the file is as it was."""
        line = _encode(entry)
        with _translated(self.path), self._changed:
            if not self._write(line):
                self._spare.unlink(missing_ok=True)
                if not self._write(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._bytes += len(line)
            self.lines += 1
            self._written += 1
            self._changed.notify_all()

    def _write(self, line: bytes) -> bool:
        """Whether there was room; raises OSError for anything else. What is not whole is not there."""
        try:
            if os.write(self._file, line) == len(line):
                return True
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        os.ftruncate(self._file, self._bytes)
        return False

    def settle(self) -> None:
        """Return when all that has been appended is on the disk; raises JournalError."""
        with _translated(self.path), self._changed:
            until = self._written
            self._changed.wait_for(lambda: self._synced >= until or self._failure is not None)
            if self._synced < until and self._failure is not None:
                raise self._failure

    def rewrite(self, entries: Iterable[dict[str, Any]]) -> None:
        """Replace the file, at once, by one of this boot with these objects only; raises JournalError."""
        lines = [_encode({"journal": FORMAT, "boot": boot_id()}), *map(_encode, entries)]
        new = self.path.with_suffix(".new")
        with _translated(self.path), self._changed:
            file = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                with open(file, "wb", closefd=False) as stream:
                    stream.write(b"".join(lines))
                os.fsync(file)
                os.replace(new, self.path)
            except BaseException:
                os.close(file)
                new.unlink(missing_ok=True)
                raise
            old, self._file = self._file, file
            os.close(old)
            self.lines, self._bytes = len(lines) - 1, sum(map(len, lines))
            _sync_directory(self.path.parent)
            self._synced = self._written
            self._changed.notify_all()
        self._keep_spare()

    def _keep_spare(self) -> None:
        """Room for many lines, given up when the disk is full: to delete pods takes some, and is what makes more."""
        with suppress(OSError), open(self._spare, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, SPARE_BYTES)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._syncer.join()
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync_for_ever(self) -> None:
        """One fdatasync for all that came since the last."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._written > self._synced)
                if self._written == self._synced:
                    return
            if not self._closing:
                time.sleep(GATHER_S)
            with self._changed:
                until, file = self._written, os.dup(self._file)
            failure = None
            try:
                os.fdatasync(file)
            except OSError as error:
                failure = error
            finally:
                os.close(file)
            with self._changed:
                self._failure = failure
                self._synced = max(self._synced, until) if failure is None or self._closing else self._synced
                self._changed.notify_all()
                if failure is not None and not self._closing:
                    self._changed.wait(1.0)


def read_journal(path: Path) -> Contents:
    """What the file says now, whoever has it open; nothing when there is none. Raises JournalError."""
    with _translated(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return Contents()
    whole = data[: data.rfind(b"\n") + 1]
    decoded = [_decode(line) for line in whole.split(b"\n")[:-1]]
    while decoded and decoded[-1] is None:  # a torn line that a later one was not appended to
        decoded.pop()
        whole = whole[: whole[:-1].rfind(b"\n") + 1]
    good = [entry for entry in decoded if entry is not None]
    heads = [entry for entry in good if "journal" in entry]
    entries = tuple(entry for entry in good if "journal" not in entry)
    boot = heads[0].get("boot") if heads else None
    return Contents(entries, boot if isinstance(boot, str) else "", len(decoded) - len(good), len(whole))


def boot_id() -> str:
    """Another one after each start of the machine."""
    return BOOT_ID.read_text().strip()


def _encode(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def _decode(line: bytes) -> dict[str, Any] | None:
    check, _, text = line.partition(b" ")
    try:
        if int(check, 16) != crc32(text):
            return None
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _lock(path: Path, patience_s: float) -> int:
    """An open file whose lock is ours until it is closed."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                os.close(file)
                raise JournalBusy(f"{path} is locked by another process") from None
            time.sleep(LOCK_POLL_S)
        else:
            return file


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JournalError(f"journal {path}: {os.strerror(error.errno or 0).lower()}") from error
