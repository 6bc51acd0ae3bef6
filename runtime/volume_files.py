"""Volumes on disk: VOLUMES/NAME/volume.json says what it is, VOLUMES/NAME/_data is what containers see; blocking.

A volume appears and goes by rename, whole. Must not know who uses it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from flanneld.linux.netns import unmount
from flanneld.log import Log
from runtime.layout import Layout
from runtime.linux.mountinfo import is_mounted
from runtime.linux.trees import discard_tree, remove_tree
from runtime.volume import Volume

DATA = "_data"
RECORD = "volume.json"
FILLING = "filling"
"""There while an image's files are copied into the volume: what is in it is then no reason not to copy the rest."""

log = Log(__name__)


def read_volumes(layout: Layout) -> Iterator[Volume]:
    """Every volume that there is; one that cannot be read is left alone, with a line in the log."""
    with suppress(FileNotFoundError):
        for directory in sorted(layout.volumes.iterdir()):
            try:
                yield _read(directory)
            except (OSError, msgspec.DecodeError) as error:
                log.warning("volume left alone", volume=directory.name, why=error)


def make_volume(layout: Layout, volume: Volume) -> Volume:
    """Make its directory; one that is there already stays, and is returned. Raises OSError."""
    directory = layout.volumes / volume.name
    layout.volumes.mkdir(mode=0o711, parents=True, exist_ok=True)
    layout.temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="volume-", dir=layout.temporary))
    try:
        scratch.chmod(0o711)
        _make_data(scratch / DATA)
        with (scratch / RECORD).open("wb") as file:
            file.write(msgspec.json.encode(volume))
            file.flush()
            os.fsync(file.fileno())
        if (directory / RECORD).exists():
            return _read(directory)
        scratch.rename(directory)
        _sync(layout.volumes)
    finally:
        discard_tree(scratch)
    return _read(directory)


def remove_volume(layout: Layout, name: str) -> None:
    """Remove it and all that is in it, but nothing that is mounted there; nothing happens when it is gone. Raises OSError."""
    directory = layout.volumes / name
    unmount(directory / DATA)
    layout.temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="volume-", dir=layout.temporary))
    with suppress(FileNotFoundError):
        directory.rename(scratch / name)
    remove_tree(scratch)


def ensure_data(path: Path) -> bool:
    """Make what containers see if somebody has removed it; returns whether something is mounted there. Raises OSError."""
    if not path.is_dir():
        _make_data(path)
    return is_mounted(path.resolve())


def is_to_be_filled(path: Path) -> bool:
    """Whether an image's files belong into it: it is empty, or was being filled when an engine died. Marks it as being filled."""
    marker = path.with_name(FILLING)
    if any(path.iterdir()) and not marker.exists():
        return False
    marker.touch()
    return True


def mark_filled(path: Path) -> None:
    """All of the image's files are there."""
    path.with_name(FILLING).unlink(missing_ok=True)


def _read(directory: Path) -> Volume:
    volume = msgspec.json.decode((directory / RECORD).read_bytes(), type=Volume)
    return msgspec.structs.replace(volume, name=directory.name, mountpoint=str(directory / DATA))


def _make_data(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)  # whatever our umask


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
