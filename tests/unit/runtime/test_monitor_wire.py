import asyncio
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import EngineError
from runtime.monitor import wire
from runtime.monitor.control import LOST, Control, NotRunning, read_exit

STORY = b"waiting\nok\nrunning 42\nerror 25\nexit 137 1700000000000000001\n"
MESSAGES = [wire.Waiting(), wire.Answer(0), wire.Running(42), wire.Answer(25), wire.Exit(137, 1_700_000_000_000_000_001)]


@settings(deadline=None)
@given(st.lists(st.integers(1, len(STORY) - 1)))
def test_a_conversation_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    decoder, places = wire.Decoder(), [0, *sorted(cuts), len(STORY)]
    pieces = [STORY[start:end] for start, end in pairwise(places)]
    assert [message for piece in pieces for message in decoder.feed(piece)] == MESSAGES


def test_a_failure_brings_its_reason_with_newlines_in_it() -> None:
    decoder = wire.Decoder()
    assert list(decoder.feed(b"starting\nfailed 9\nexit")) == [wire.Starting()]
    assert list(decoder.feed(b" 1 2\nok\n")) == [wire.Failed("exit 1 2\n"), wire.Answer(0)]


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_messages_or_an_engine_error(data: bytes) -> None:
    with suppress(EngineError):
        list(wire.Decoder().feed(data))


def test_a_monitor_that_refuses_says_why() -> None:
    with pytest.raises(EngineError, match="refuses: /x: No such file"):
        list(wire.Decoder().feed(b"refused /x: No such file or directory\n"))


@pytest.mark.parametrize(
    ("stdin", "stdout", "stderr", "byte"), [(True, True, True, b"7"), (False, True, False, b"2"), (False,) * 3 + (b"0",)]
)
def test_a_client_begins_with_a_digit_of_its_streams(*, stdin: bool, stdout: bool, stderr: bool, byte: bytes) -> None:
    assert wire.client(stdin=stdin, stdout=stdout, stderr=stderr) == byte


@pytest.mark.parametrize("text", ["", "7", "7 x\n", "-1 5\n", "1 2 3\n"])
def test_half_an_exit_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "exit").write_text(text)
    assert read_exit(tmp_path) is None


async def test_a_lost_monitor_answers_everything_that_is_open(tmp_path: Path) -> None:
    control = Control(tmp_path)
    control.data_received(b"running 5\n")
    control.connection_lost(None)
    assert (await control.exit).code == LOST
    assert control.running.result() == 5
    with pytest.raises(NotRunning):
        await control.ask(b"close\n")


async def test_a_monitor_that_ended_while_nobody_listened_has_left_its_exit(tmp_path: Path) -> None:
    (tmp_path / "exit").write_text("3 99\n")
    control = Control(tmp_path)
    control.connection_lost(None)
    assert await asyncio.shield(control.exit) == wire.Exit(3, 99)
