"""A container's files without an engine: a root, what is mounted over it, and a process that lives in them; must not know runc.

The process has a mount namespace of its own and is rooted in the directory, as a container's is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from runtime.clock import now
from runtime.config import ContainerConfig, HostConfig
from runtime.containers.record import Life, MountPoint, Record, State

_PAUSE = '#include <unistd.h>\nint main(void) { write(1, "!", 1); for (;;) pause(); }\n'
_ENTER = """
set -e
root=$1
shift
mount --make-rprivate /
mount --rbind "$root" "$root"
mount -t tmpfs tmpfs "$root/shm"
mount -t proc proc "$root/proc"
while [ $# -gt 0 ]; do
    mount --rbind "$1" "$root$2"
    [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
    shift 3
done
exec chroot "$root" /pause
"""


@dataclass
class RootedContainer:
    """What of a container the files' part sees."""

    root: Path
    directory: Path
    record: Record
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def is_running(self) -> bool:
        return self.record.life.pid != 0

    @asynccontextmanager
    async def mounted(self) -> AsyncIterator[Path]:
        yield self.root

    def lives(self, pid: int) -> None:
        life = Life(state=State.RUNNING, pid=pid) if pid else Life()
        self.record = msgspec.structs.replace(self.record, life=life)


def make_container(directory: Path, *mounts: MountPoint, user: str = "", read_only: bool = False) -> RootedContainer:
    """One that does not run, with a few files."""
    root = directory / "rootfs"
    for name in ("etc", "proc", "shm", "tmp", *(point.target.lstrip("/") for point in mounts)):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\napp:x:1234:5678::/:/bin/sh\n")
    record = Record(
        id="c" * 64,
        name="files",
        created=now(),
        image_id="",
        config=ContainerConfig(user=user),
        host=HostConfig(readonly_rootfs=read_only),
        mounts=mounts,
    )
    (directory / "state").mkdir()
    return RootedContainer(root, directory / "state", record)


@contextmanager
def running(container: RootedContainer) -> Iterator[int]:
    """A process in it, whose pid is in the record meanwhile."""
    program = container.root / "pause"
    command = ["musl-gcc", "-static", "-Os", "-x", "c", "-", "-o", str(program)]
    subprocess.run(command, input=_PAUSE, text=True, check=True)
    points = [word for p in container.record.mounts for word in (p.source, p.target, "rw" if p.writable else "ro")]
    entered = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(container.root), *points]
    with subprocess.Popen(entered, stdout=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"!"
            container.lives(process.pid)
            yield process.pid
        finally:
            container.lives(0)
            process.kill()
