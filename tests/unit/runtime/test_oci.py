from pathlib import Path

import pytest

from runtime.containers.monitor import StartFailed
from runtime.linux.oci import Runc, RuncError, failure_words, last_words

MISSING = 'unable to start container process: exec: "x": executable file not found in $PATH'


def test_a_failed_run_is_told_in_dockers_words() -> None:
    shim = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed"
    assert failure_words(f"runc run failed: {MISSING}\n") == f"{shim}: {MISSING}: unknown"


def test_a_failed_exec_is_told_in_dockers_words() -> None:
    assert failure_words(f"exec failed: {MISSING}") == f"OCI runtime exec failed: exec failed: {MISSING}: unknown"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"level":"warning","msg":"a"}\n{"level":"error","msg":"no\\nsuch"}\n', "no\nsuch"),
        ("plain\n", "plain"),
        ("", ""),
        ("[1]", "[1]"),
    ],
)
def test_the_last_message_counts(text: str, words: str) -> None:
    assert last_words(text) == words


@pytest.mark.parametrize(
    ("words", "code"),
    [(MISSING, 127), ("exec /x: no such file or directory", 127), ('exec: "/": permission denied', 126), ("invalid rootfs", 128)],
)
def test_exit_codes_follow_the_words_as_docker_has_it(words: str, code: int) -> None:
    assert StartFailed(words).code == code


async def test_a_container_that_runc_does_not_know_has_no_state(tmp_path: Path) -> None:
    program = tmp_path / "runc"
    program.write_text('#!/bin/sh\necho \'{"level":"error","msg":"container does not exist"}\' >&2\nexit 1\n')
    program.chmod(0o755)
    assert await Runc(program, tmp_path).state("x") is None
    with pytest.raises(RuncError, match=r"^container does not exist$"):
        await Runc(program, tmp_path).pause("x")
