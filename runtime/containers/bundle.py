"""The files a container is started from: config.json for the runtime, and what it sees as its /etc; must not know what they say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

CONFIG = "config.json"
PID = "pid"
CONSOLE = "console.sock"
EXECS = "execs"
MOUNTS = "mounts"
"""What is mounted here for the container's mounts: `NUMBER/rootfs` an image, `NUMBER/part` a part of a volume or image."""
PART = "part"
ROOT = "rootfs"
SHM = "shm"
_MOUNTED = (ROOT, SHM)
HOSTNAME, HOSTS, RESOLV_CONF = "hostname", "hosts", "resolv.conf"
ETC = {f"/etc/{name}": name for name in (RESOLV_CONF, HOSTNAME, HOSTS)}
"""Where a container sees each of the files."""


def make_bundle(bundle: Path) -> None:
    """Its directory; raises OSError."""
    bundle.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    bundle.mkdir(exist_ok=True, mode=0o700)  # its config has the container's environment, where people put passwords


def write_config(bundle: Path, document: Mapping[str, Any]) -> None:
    """What the runtime is to execute; raises OSError."""
    (bundle / CONFIG).write_bytes(msgspec.json.encode(document))


def read_config(bundle: Path) -> dict[str, Any]:
    """What the runtime has executed; raises OSError."""
    document: dict[str, Any] = msgspec.json.decode((bundle / CONFIG).read_bytes())
    return document


def write_etc(directory: Path, texts: Mapping[str, str]) -> dict[str, Path]:
    """Write the files, in place: containers have them mounted. Returns where each is seen; raises OSError."""
    for name, text in texts.items():
        path = directory / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        path.chmod(0o644)  # whatever our umask: users of the container read it
    return etc_files(directory)


def etc_files(directory: Path) -> dict[str, Path]:
    """Where those of the files that are there are seen."""
    return {target: directory / name for target, name in ETC.items() if (directory / name).exists()}


def sweep_bundle(bundle: Path) -> None:
    """Delete the bundle; raises OSError when something is mounted in it still: nothing below a mount is ever deleted."""
    with suppress(FileNotFoundError):
        for name in _MOUNTED:
            with suppress(FileNotFoundError):
                (bundle / name).rmdir()
        for place in (bundle / MOUNTS).glob("*"):
            with suppress(FileNotFoundError):
                (place / ROOT).rmdir()
            with suppress(FileNotFoundError):
                _delete_mount_point(place / PART)
        shutil.rmtree(bundle)


def _delete_mount_point(path: Path) -> None:
    """A directory or a file, on which nothing is mounted any more: else EBUSY."""
    try:
        path.unlink()
    except IsADirectoryError:
        path.rmdir()
