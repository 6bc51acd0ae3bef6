"""runc by its command line, the OCI runtime's; must not know what runs or why.

What starts a process (`run`, `exec`) is only put into words here: the monitor runs it, so that the process becomes its child.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.linux.cgroups import Cgroup

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""runc's and so its hooks': nothing of ours."""
_CREATE = "OCI runtime create failed: runc create failed: "
_STATE = "state.json"
"""By which runc, of all runtimes, is known."""
_ABSENT = ("container does not exist", "does not exist")


class RuncError(EngineError):
    """runc refuses or fails; its own words."""


class Runc:
    """One runc and the directory where it keeps what it knows of containers."""

    def __init__(self, program: Path, state: Path) -> None:
        self.program = program
        self.state_directory = state

    def run_arguments(self, bundle: Path, container_id: str, pid_file: Path, console_socket: Path | None) -> list[str]:
        """The command that makes a container and leaves its first process running."""
        options = ["--bundle", str(bundle), *_files(pid_file, console_socket)]
        return [*self._quiet(), "run", "--detach", *options, container_id]

    def exec_arguments(self, container_id: str, process_json: Path, pid_file: Path, console_socket: Path | None) -> list[str]:
        """The command that adds a process to a container and leaves it running."""
        options = ["--process", str(process_json), *_files(pid_file, console_socket)]
        return [*self._quiet(), "exec", "--detach", *options, container_id]

    async def delete(self, container_id: str) -> None:
        """Kill what is left of a container and forget it; nothing happens when there is none. Raises RuncError."""
        await self._run("delete", "--force", container_id)

    def forget(self, container_id: str, group: Cgroup) -> bool:
        """Do what `delete` does for a container of runc's in which nothing is left; False: there is more to it. Blocking.

        That is nearly every container at its end, and runc would take 10 ms to start.
        """
        state = self.state_directory / container_id
        if not (state / _STATE).exists() or not group.remove():
            return False
        shutil.rmtree(state)
        return True

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        """Send a signal to a container's first process or to all in it; raises RuncError."""
        await self._run("kill", *(["--all"] if everyone else []), container_id, str(signal))

    async def pause(self, container_id: str) -> None:
        """Freeze a container; raises RuncError."""
        await self._run("pause", container_id)

    async def resume(self, container_id: str) -> None:
        """Let a frozen container go on; raises RuncError."""
        await self._run("resume", container_id)

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Change a running container's limits: OCI's linux.resources, of which what is absent stays; raises RuncError."""
        await self._run("update", "--resources", "-", container_id, document=json.dumps(resources).encode())

    async def ps(self, container_id: str) -> list[int]:
        """Every process in a container, as seen from here; raises RuncError."""
        found = json.loads(await self._run("ps", "--format", "json", container_id) or b"null")
        return [int(pid) for pid in found or []]

    async def state(self, container_id: str) -> dict[str, Any] | None:
        """What runc knows of a container (`status`, `pid`..); None: nothing. Raises RuncError."""
        try:
            found: dict[str, Any] = json.loads(await self._run("state", container_id))
        except RuncError as error:
            if str(error).endswith(_ABSENT):
                return None
            raise
        return found

    async def version(self) -> str:
        """What the runtime says of itself: "1.1.5+ds1"; raises RuncError when there is none."""
        try:
            told = (await self._run("--version")).decode(errors="replace").split()
        except OSError as error:
            raise RuncError(f"no OCI runtime: {self.program}: {(error.strerror or '').lower()}") from error
        return told[told.index("version") + 1] if "version" in told[:-1] else ""

    def _quiet(self) -> list[str]:
        """Warnings go nowhere: standard error is the container's already. runc's last words come there, too."""
        return [str(self.program), "--root", str(self.state_directory), "--log", "/dev/null"]

    async def _run(self, *arguments: str, document: bytes | None = None) -> bytes:
        """Run to the end and return the output; runc is not killed half-way when the caller is cancelled."""
        command = [str(self.program), "--root", str(self.state_directory), "--log-format", "json", *arguments]
        given = DEVNULL if document is None else PIPE
        child = await asyncio.create_subprocess_exec(*command, stdin=given, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT)
        output, errors = await child.communicate(document)
        if child.returncode != 0:
            raise RuncError(last_words(errors.decode(errors="replace")) or f"runc {arguments[0]} ended with {child.returncode}")
        return output


def _files(pid_file: Path, console_socket: Path | None) -> list[str]:
    console = ["--console-socket", str(console_socket)] if console_socket else []
    return ["--pid-file", str(pid_file), *console]


def last_words(text: str) -> str:
    """The last message of what runc wrote, whether as JSON lines or plain."""
    words = text.strip()
    try:
        message = json.loads(words.rpartition("\n")[2])["msg"]
    except (ValueError, KeyError, TypeError):
        return words
    return str(message)


def failure_words(text: str) -> str:
    """Why something did not start, as Docker tells it: its clients look in there for what the exit code is to be."""
    words = last_words(text)
    if words.startswith("exec failed: "):
        return f"OCI runtime exec failed: {words}: unknown"
    words = words.removeprefix("runc run failed: ")
    return f"failed to create task for container: failed to create shim task: {_CREATE}{words}: unknown"
