"""OCI documents as real runc executes them: a busybox root, a record, a run; must not know how an engine starts containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from runtime.config import ContainerConfig, HostConfig
from runtime.containers.record import Record
from runtime.containers.spec import Given, Spec, build_spec

PROGRAMS = Path(sys.executable).parent
RUNC, BUSYBOX = PROGRAMS / "runc", PROGRAMS / "busybox"
APPLETS = "sh cat id ls sleep true env hostname mount umount grep stat touch readlink pwd mkdir test echo head".split()  # noqa: SIM905
DIRECTORIES = "bin dev proc sys etc tmp root home/ann sbin work".split()  # noqa: SIM905
LIMIT_S = 60.0


class RunFailed(Exception):
    """runc said no, or the command did; their own words."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def make_rootfs(where: Path) -> Path:
    """busybox, and a passwd and group with a few people in them."""
    for name in DIRECTORIES:
        (where / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, where / "bin/busybox")
    for applet in APPLETS:
        (where / "bin" / applet).symlink_to("busybox")
    (where / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n")
    (where / "etc/group").write_text("root:x:0:root\nstaff:x:50:ann\nann:x:1001:\nvideo:x:44:bob,ann\n")
    return where


def a_record(config: dict[str, Any] | None = None, host: dict[str, Any] | None = None, *command: str) -> Record:
    """A record of a container that runs this command."""
    words = command or ("/bin/true",)
    return Record(
        id=uuid.uuid4().hex * 2,
        name="x",
        created="2026-01-01T00:00:00Z",
        image_id="",
        config=ContainerConfig(**(config or {})),
        host=HostConfig(**(host or {})),
        path=words[0],
        args=words[1:],
    )


class Bundles:
    """Runs of containers in one root; what they leave is removed by `close`."""

    def __init__(self, directory: Path) -> None:
        self.rootfs = make_rootfs(directory / "rootfs")
        self._directory = directory
        self._state = directory / "runc"
        self._cgroup = f"/tartan-test-{uuid.uuid4().hex[:8]}"
        self._pids: dict[str, int] = {}

    def given(self, record: Record, **fields: Any) -> Given:
        """What a start of it is given, here."""
        plain = Given(rootfs=self.rootfs, cgroup=f"{self._cgroup}/{record.id}", pid_of=self._pids.__getitem__)
        return replace(plain, **{"hostname": record.id[:12], "mounts": record.mounts, **fields})

    def run(self, record: Record, **fields: Any) -> str:
        """What it prints, of both kinds; raises RunFailed."""
        spec = build_spec(record, self.given(record, **fields))
        return self._runc("run", "--bundle", str(self._bundle(record, spec)), record.id)

    def start(self, record: Record, **fields: Any) -> int:
        """Its first process, in the background until `close`."""
        bundle = self._bundle(record, build_spec(record, self.given(record, **fields)))
        self._runc("run", "--detach", "--bundle", str(bundle), "--pid-file", str(bundle / "pid"), record.id)
        self._pids[record.id] = pid = int((bundle / "pid").read_text())
        until = time.monotonic() + LIMIT_S
        while Path(f"/proc/{pid}/comm").read_text().startswith("runc:") and time.monotonic() < until:
            time.sleep(0.005)  # runc is done when it has said go; the program is there a moment later
        return pid

    def execute(self, record: Record, process: dict[str, Any]) -> str:
        """What a further process prints; raises RunFailed."""
        (self._directory / "process.json").write_text(json.dumps(process))
        return self._runc("exec", "--process", str(self._directory / "process.json"), record.id)

    def document(self, record: Record) -> dict[str, Any]:
        """What it was started with."""
        found: dict[str, Any] = json.loads((self._directory / record.id / "config.json").read_bytes())
        return found

    def close(self) -> None:
        """End all, and remove their control groups."""
        for identity in reversed(self._pids):  # one that joined another's namespaces ends before it
            self._runc("delete", "--force", identity)
        for folder in Path("/sys/fs/cgroup").glob(f"*{self._cgroup}"):
            os.rmdir(folder)

    def _bundle(self, record: Record, spec: Spec) -> Path:
        bundle = self._directory / record.id
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_bytes(msgspec.json.encode(spec.document))
        return bundle

    def _runc(self, *words: str) -> str:
        with (self._directory / "said").open("w+b") as said:  # a pipe would stay open with a container that runs on
            ended = subprocess.run(
                [RUNC, "--root", self._state, *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=LIMIT_S,
                check=False,
            )
            said.seek(0)
            text = said.read().decode(errors="replace")
        if ended.returncode:
            raise RunFailed(text, ended.returncode)
        return text
