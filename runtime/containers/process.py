"""The processes of a container as OCI's process object: its first one, and those that are put into it later.

Must not know what else a container has. Both kinds get their rights by the same rules: nothing inheritable, nothing ambient.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runtime.containers.capabilities import capabilities
from runtime.containers.record import Record
from runtime.containers.users import User, find_user
from runtime.errors import InvalidParameter
from runtime.linux.clamp import CAPABILITIES, Held, held

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATH_BYTES = 4095
"""Of what the kernel takes for a path (PATH_MAX)."""
_DESCRIPTORS = re.compile(r"/proc/[^/]+(/task/[^/]+)?/(fd|fdinfo|cwd|root|exe|map_files)(/.*)?")


class Wish(Protocol):
    """What is asked of a process that is put into a container: the API's ExecConfig."""

    @property
    def cmd(self) -> tuple[str, ...]: ...
    @property
    def env(self) -> tuple[str, ...]: ...
    @property
    def user(self) -> str: ...
    @property
    def tty(self) -> bool: ...
    @property
    def privileged(self) -> bool: ...
    @property
    def working_dir(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is, and what it may at most."""

    user: User
    granted: Sequence[str]


def first_process(record: Record, rootfs: Path, hostname: str, holds: Held) -> dict[str, Any]:
    """What a container starts as, without its limits and security; raises InvalidParameter for an unknown user."""
    config, host = record.config, record.host
    identity = Identity(find_user(rootfs, config.user, host.group_add, record.group_rule), capabilities(host, holds).granted)
    process = {
        "terminal": config.tty,
        "user": _user(identity.user),
        "args": [record.path, *record.args],
        "env": environment(config.env, hostname, identity.user.home, tty=config.tty),
        "cwd": working_directory(config.working_dir),
        "capabilities": _capabilities(identity),
    }
    height, width = host.console_size
    if config.tty and height > 0 and width > 0:
        process["consoleSize"] = {"height": height, "width": width}
    return process


def process_spec(record: Record, wish: Wish, rootfs: Path, document: dict[str, Any]) -> dict[str, Any]:
    """A further process of a running container with that OCI document: its limits and its rights, privileged all of the engine's.

    Raises InvalidParameter for a user that is unknown in the container, and for no command.
    """
    if not wish.cmd:
        raise InvalidParameter("No exec command specified")
    check_path(wish.cmd[0])
    first = document["process"]
    user = find_user(rootfs, wish.user or record.config.user, record.host.group_add, record.group_rule)
    if wish.privileged:
        granted = [name for name in CAPABILITIES if name in held().capabilities]
    else:
        granted = first["capabilities"]["bounding"]
    env = (*record.config.env, *wish.env)
    hostname = document.get("hostname") or record.config.hostname
    return {
        **{name: value for name, value in first.items() if name != "consoleSize"},
        "terminal": wish.tty,
        "user": _user(user),
        "args": list(wish.cmd),
        "env": environment(env, hostname, user.home, tty=wish.tty),
        "cwd": working_directory(wish.working_dir or record.config.working_dir),
        "capabilities": _capabilities(Identity(user, granted)),
    }


def environment(given: Iterable[str], hostname: str, home: str, *, tty: bool) -> list[str]:
    """Variables in the order of their first appearance, the last value of each; a name without "=" takes it away."""
    defaults = [PATH, f"HOSTNAME={hostname}", *(("TERM=xterm",) if tty else ())]
    variables: dict[str, str] = {}
    for variable in (*defaults, *given):
        name, separator, value = variable.partition("=")
        if separator:
            variables[name] = value
        else:
            variables.pop(name, None)
    variables["HOME"] = variables.get("HOME") or home
    return [f"{name}={value}" for name, value in variables.items()]


def working_directory(path: str) -> str:
    """Where a process starts, "" is the root; raises InvalidParameter for one not absolute, or that leads out by an open file."""
    if path and not path.startswith("/"):
        raise InvalidParameter(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    check_path(path)
    clean = "/" + posixpath.normpath(path or "/").lstrip("/")
    if _DESCRIPTORS.fullmatch(clean):
        raise InvalidParameter(f"the working directory '{path}' is invalid, it names an open file of a process")
    return clean


def check_path(path: str) -> None:
    """Raises InvalidParameter for what is longer than any path, or has a NUL, and so cannot be where it is said to be."""
    if "\0" in path:
        raise InvalidParameter(f"invalid path {path[:100]!r}: NUL")
    if len(path.encode(errors="replace")) > PATH_BYTES:
        raise InvalidParameter(f"{path[:100]!r}...: file name too long")


def _user(user: User) -> dict[str, Any]:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}


def _capabilities(identity: Identity) -> dict[str, list[str]]:
    """As execve(2) leaves them: who is not root has none in effect, and may not come by more than the bounding set."""
    granted = list(identity.granted)
    if identity.user.uid:
        return {"bounding": granted}
    return {"bounding": granted, "effective": granted, "permitted": granted}
