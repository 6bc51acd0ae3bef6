from __future__ import annotations

import asyncio
import os

import pytest

from runtime.containers.top import _ps, parse_ps, split_arguments
from runtime.errors import EngineError, InvalidParameter

LISTING = """\
UID   PID  PPID CMD
root    7     1 sleep 1 000
root   70     1 other
root    8     7 sh -c  x
"""


def test_only_the_container_s_processes_are_shown() -> None:
    found = parse_ps(LISTING, [7, 8])
    assert found.titles == ("UID", "PID", "PPID", "CMD")
    assert found.processes == (("root", "7", "1", "sleep 1 000"), ("root", "8", "7", "sh -c x"))


def test_threads_go_with_their_process() -> None:
    text = "PID LWP CMD\n7 - x\n- 71 -\n9 - y\n- 91 -\n"
    assert parse_ps(text, [7]).processes == (("7", "-", "x"), ("-", "71", "-"))


@pytest.mark.parametrize("text", ["", "USER CMD\nroot x\n"])
def test_without_a_pid_column_it_is_not_known_whose_processes_they_are(text: str) -> None:
    with pytest.raises(EngineError, match="Couldn't find PID field in ps output"):
        parse_ps(text, [7])


def test_what_is_no_pid_is_an_error() -> None:
    with pytest.raises(EngineError, match="Unexpected pid 'x'"):
        parse_ps("PID CMD\nx y\n", [7])


@pytest.mark.parametrize("text", ["-o ppid=PID", "ax -o comm=PID,pid", "-o\tuser= PIDX"])
def test_no_other_column_may_be_called_pid(text: str) -> None:
    with pytest.raises(InvalidParameter, match="is not allowed"):
        split_arguments(text)


@pytest.mark.parametrize(
    ("text", "words"), [("", ["-ef"]), ("aux", ["aux"]), ("-o pid,args ; reboot", ["-o", "pid,args", ";", "reboot"])]
)
def test_arguments_are_words(text: str, words: list[str]) -> None:
    assert split_arguments(text) == words


async def test_the_real_ps_shows_us() -> None:
    code, out, _ = await asyncio.wait_for(_ps(["-ef", f"-q{os.getpid()}"]), 10)
    assert code == 0
    assert [process[1] for process in parse_ps(out, [os.getpid()]).processes] == [str(os.getpid())]


async def test_what_ps_complains_about_is_kept() -> None:
    code, _, complaint = await _ps(["--no-such-option"])
    assert code
    assert complaint
