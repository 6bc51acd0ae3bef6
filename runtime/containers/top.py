"""`docker top`: a container's processes, as ps(1) of the host shows them; must not know how the table is sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.errors import Conflict, EngineError, InvalidParameter
from runtime.linux.cgroups import Cgroup

if TYPE_CHECKING:
    from runtime.containers.container import Container

DEFAULT_ARGUMENTS = "-ef"
PATIENCE_S = 10.0
"""For ps, which takes milliseconds."""
ARGUMENTS_MAX = 4096
_RENAMED = re.compile(r"\s+([^\s]*)=\s*(PID[^\s]*)")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Top:
    """A table; the last column holds what is left of the line."""

    titles: tuple[str, ...]
    processes: tuple[tuple[str, ...], ...]


async def top(container: Container, ps_args: str = "") -> Top:
    """The processes that run in it; raises Conflict (it does not run), InvalidParameter, EngineError (ps says no)."""
    arguments = split_arguments(ps_args)
    pids = await asyncio.to_thread(lambda: Cgroup.at(container.record.cgroup).processes())
    if not pids:
        raise Conflict(f"container {container.id} is not running")
    code, out, complaint = await _ps([*arguments, "-q" + ",".join(map(str, pids))])
    if code:  # some options (f) do not go together with a list of processes
        code, out, complaint = await _ps(arguments)
    if code:
        raise EngineError(f"ps: {complaint.splitlines()[0] if complaint else f'exit status {code}'}")
    return parse_ps(out, pids)


def split_arguments(text: str) -> list[str]:
    """The words of `ps_args`, which no shell sees; raises InvalidParameter."""
    if "\0" in text or len(text) > ARGUMENTS_MAX:
        raise InvalidParameter("expected ps_args without NUL, of at most 4096 characters")
    for name, title in _RENAMED.findall(" " + text):
        if name != "pid":  # another column that calls itself PID would be taken for it
            raise InvalidParameter(f'specifying "{name}={title}" is not allowed')
    return text.split() or [DEFAULT_ARGUMENTS]


def parse_ps(text: str, pids: Collection[int]) -> Top:
    """Those lines of ps that are of these processes; a thread's ("-" for a pid) follows its process. Raises EngineError."""
    head, *lines = text.splitlines() or [""]
    titles = head.split()
    if "PID" not in titles:
        raise EngineError("Couldn't find PID field in ps output")
    column = titles.index("PID")
    processes = []
    belongs = False
    for words in filter(None, map(str.split, lines)):
        if len(words) <= column:
            raise EngineError(f"Unexpected pid '{' '.join(words)}' in ps output")
        if words[column] != "-":
            belongs = _number(words[column]) in pids
        if belongs:
            processes.append(_row(words, len(titles)))
    return Top(tuple(titles), tuple(processes))


def _row(words: Sequence[str], columns: int) -> tuple[str, ...]:
    return (*words[: columns - 1], " ".join(words[columns - 1 :]))


def _number(word: str) -> int:
    if not word.isdecimal():
        raise EngineError(f"Unexpected pid '{word}' in ps output")
    return int(word)


async def _ps(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Exit status, output and complaint of ps; raises EngineError."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        child = await asyncio.create_subprocess_exec("ps", *arguments, stdin=null, stdout=pipe, stderr=pipe, env=_ENVIRONMENT)
    except FileNotFoundError as error:
        raise EngineError("ps: not found on this host, install procps") from error
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, complaint = await child.communicate()
    except (TimeoutError, asyncio.CancelledError) as error:
        child.kill()
        await child.wait()
        if isinstance(error, TimeoutError):
            raise EngineError("ps: did not end") from error
        raise
    return child.returncode or 0, out.decode(errors="replace"), complaint.decode(errors="replace")
