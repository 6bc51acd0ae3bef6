import pytest

from runtime.containers.monitor import StartFailed
from runtime.containers.start_errors import failure_of
from runtime.errors import Conflict, EngineError, InvalidParameter


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        ('exec: "x": executable file not found in $PATH: unknown', InvalidParameter, 127),
        ("exec /x: no such file or directory: unknown", InvalidParameter, 127),
        ("exec /x: permission denied: unknown", InvalidParameter, 126),
        ("mounting a to b: not a directory: unknown", InvalidParameter, 126),
        ("cannot set memory limit: unknown", EngineError, 128),
    ],
)
def test_what_the_request_is_to_blame_for_is_told_by_the_runtimes_words(words: str, error: type[EngineError], code: int) -> None:
    failure = failure_of(StartFailed(words))
    assert (type(failure.error), failure.code) == (error, code)
    assert str(failure.error).startswith(words)


def test_a_directory_on_a_file_comes_with_a_hint() -> None:
    assert "Are you trying to mount a directory onto a file" in str(failure_of(StartFailed("x: not a directory: unknown")).error)


def test_what_the_engine_refuses_itself_stays_what_it_is() -> None:
    refusal = Conflict("port is already allocated")
    assert failure_of(refusal).error is refusal
    assert failure_of(OSError(28, "No space left on device")).code == 128
