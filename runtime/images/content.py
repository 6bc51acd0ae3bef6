"""Blobs by digest, as they travel: manifests, configs, compressed layers; must not know what is in them or who wants them.

A blob appears by rename, whole, verified and synced: one that is there is right. All of it may be called from any thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from runtime.errors import EngineError, InvalidParameter, NotFound
from runtime.layout import Layout

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_REREAD_BYTES = 1 << 20
STALE_S = 7 * 86400
"""How long a download that was broken off waits for the pull that goes on with it."""


class DigestMismatch(EngineError):
    """What came is not what was announced; it is kept nowhere."""


def digest_of(data: bytes) -> str:
    """The digest by which these bytes are kept."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hex_of(digest: str) -> str:
    """The 64 digits of a digest; raises InvalidParameter for anything else, so that no digest names another file."""
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise InvalidParameter(f"invalid digest {digest[:100]!r}, expected sha256: and 64 hexadecimal digits")
    return found[1]


class Content:
    """The blobs of one engine."""

    def __init__(self, layout: Layout) -> None:
        self._blobs = layout.content / "sha256"
        self._partial = layout.content / "partial"
        self._temporary = layout.temporary
        for directory in (self._blobs, self._partial, self._temporary):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where that blob is, or would be; raises InvalidParameter."""
        return self._blobs / hex_of(digest)

    def has(self, digest: str) -> bool:
        """Whether it is here, whole."""
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """Its bytes; raises NotFound."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not here") from None

    def read(self, digest: str) -> bytes:
        """All of a small blob; raises NotFound."""
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not here") from None

    def put(self, data: bytes) -> str:
        """Keep these bytes; returns their digest. Again: nothing changes."""
        digest = digest_of(data)
        if not self.has(digest):
            with self.writer(digest, len(data)) as writer:
                writer.write(data)
                writer.commit()
        return digest

    def writer(self, digest: str | None = None, size: int | None = None, *, resumable: bool = False) -> Writer:
        """Begin a blob; None: whatever comes. `resumable` (it needs a digest) goes on where an earlier writer was left."""
        if digest is not None and resumable and (partial := _locked(self._partial / hex_of(digest))):
            return Writer(self._blobs, partial, digest, size, keep=True)
        if digest is not None:
            hex_of(digest)
        path = self._temporary / f"blob-{os.urandom(16).hex()}"
        return Writer(self._blobs, path.open("xb+"), digest, size, keep=False)

    def digests(self) -> Iterator[str]:
        """Every blob there is."""
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                yield f"sha256:{entry.name}"

    def drop_stale(self) -> None:
        """Forget downloads that nobody has gone on with for a week."""
        oldest = time.time() - STALE_S
        for path in self._partial.iterdir():
            if path.stat().st_mtime < oldest and (file := _locked(path)):
                path.unlink(missing_ok=True)
                file.close()


def _locked(path: Path) -> IO[bytes] | None:
    """The partial file opened for this writer alone; None: another writer has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last owner may have renamed it to a blob between our open and our lock.
        if os.fstat(descriptor).st_ino != path.stat().st_ino:
            raise FileNotFoundError(path)
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    return open(path, "rb+", opener=lambda *_: descriptor)


class Writer:
    """A blob that is being written. Leaving it without commit removes it, or keeps what came if it is resumable."""

    def __init__(self, blobs: Path, file: IO[bytes], digest: str | None, size: int | None, *, keep: bool) -> None:
        self._blobs = blobs
        self._file = file
        self._digest = digest
        self._size = size
        self._keep = keep
        self._hash = hashlib.sha256()
        self.offset = 0
        """Bytes here already."""
        if keep:
            self._reread()

    def _reread(self) -> None:
        while chunk := self._file.read(_REREAD_BYTES):
            self._hash.update(chunk)
            self.offset += len(chunk)
        if self._size is not None and self.offset > self._size:
            self.restart()

    @property
    def path(self) -> Path:
        """Where the bytes are until commit, for who wants to read along."""
        return Path(self._file.name)

    def restart(self) -> None:
        """Forget what came: the source cannot go on where we were."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.offset = 0

    def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes; raises DigestMismatch when there are more than announced, OSError when the disk is full."""
        self.offset += len(chunk)
        if self._size is not None and self.offset > self._size:
            self._keep = False
            raise DigestMismatch(f"blob {self._digest} is longer than its {self._size} bytes")
        self._hash.update(chunk)
        self._file.write(chunk)

    def commit(self) -> str:
        """Keep what came, if it is what was announced, and return its digest; raises DigestMismatch."""
        found = f"sha256:{self._hash.hexdigest()}"
        if self._size is not None and self.offset < self._size:
            raise DigestMismatch(f"blob {self._digest} ended after {self.offset} of {self._size} bytes")
        if self._digest not in (None, found):
            self._keep = False
            raise DigestMismatch(f"blob {self._digest} has the digest {found}")
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._file.name, self._blobs / hex_of(found))
        self._keep = True
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if not self._keep:
            with suppress(FileNotFoundError):
                os.unlink(self._file.name)
