"""Files that hold a session's password."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bgp.password import read_password
from flanneld.config import ConfigError


def file(directory: Path, content: bytes, mode: int = 0o600) -> str:
    path = directory / "password"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("content", [b"s3cret", b"s3cret\n", b"s3cret\r\n"])
def test_the_password_is_the_files_one_line(tmp_path: Path, content: bytes) -> None:
    assert read_password(file(tmp_path, content)) == "s3cret"


def test_80_bytes_are_as_many_as_there_can_be(tmp_path: Path) -> None:
    assert read_password(file(tmp_path, b"x" * 80 + b"\r\n")) == "x" * 80


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty, expected one line with the password"),
        (b"\n", "is empty, expected one line with the password"),
        (b"x" * 81, "expected a password of up to 80 bytes, got a longer one"),
        (b"x" * 10_000_000, "expected a password of up to 80 bytes, got a longer one"),
        (b"one\ntwo\n", "expected one line of printable ASCII without spaces, got other characters in it"),
        (b"two words", "expected one line of printable ASCII without spaces, got other characters in it"),
        ("schlüssel".encode(), "expected one line of printable ASCII without spaces, got other characters in it"),
        (b"\x00\xff", "expected one line of printable ASCII without spaces, got other characters in it"),
    ],
)
def test_what_cannot_be_a_password_is_an_error_that_does_not_show_it(tmp_path: Path, content: bytes, why: str) -> None:
    path = file(tmp_path, content)
    with pytest.raises(ConfigError) as error:
        read_password(path)
    assert str(error.value) == f"PasswordFile: {path}: {why}"


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^PasswordFile: .*/none: cannot be read: No such file or directory$"):
        read_password(str(tmp_path / "none"))


def test_a_directory_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="expected a file, got something else"):
            read_password(str(path))


def test_a_file_that_everybody_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_password(file(tmp_path, b"s3cret", 0o644)) == "s3cret"
    assert caplog.messages == ["everybody on this host can read a password"]
    assert "s3cret" not in str(caplog.records[0].__dict__)


def test_a_file_of_its_owner_alone_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_password(file(tmp_path, b"s3cret"))
    assert not caplog.messages
