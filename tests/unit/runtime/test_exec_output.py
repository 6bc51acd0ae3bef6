import pytest

from runtime.containers.exec_output import Output


def frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("cut", [1, 3, 8, 9, 1000])
def test_frames_are_taken_apart_wherever_they_are_cut(cut: int) -> None:
    data = frame(1, b"one") + frame(2, b"two") + frame(1, b"") + frame(1, b"three")
    output = Output(100)
    for start in range(0, len(data), cut):
        output.feed(data[start : start + cut])
    result = output.result(7)
    assert (result.code, result.output, result.stderr, result.both) == (7, b"onethree", b"two", b"onetwothree")


def test_of_each_stream_only_the_beginning_is_kept() -> None:
    output = Output(4)
    output.feed(frame(1, b"x" * 1000) + frame(2, b"abcdef"))
    result = output.result(0)
    assert (result.output, result.stderr, result.both) == (b"xxxx", b"abcd", b"xxxx")
