"""sd_notify(3) over the socket that the environment names."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flanneld.log import FACTS
from flanneld.notify import ready, sd_notify, stopping


def received(address: str | bytes, tell: Callable[[], None]) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(5)
        tell()
        return manager.recv(100)


@pytest.mark.parametrize(("tell", "state"), [(ready, b"READY=1"), (stopping, b"STOPPING=1")])
def test_states_arrive_at_the_socket_of_the_environment(
    tmp_path: Path, tell: Callable[[Mapping[str, str]], None], state: bytes
) -> None:
    path = str(tmp_path / "notify")
    assert received(path, lambda: tell({"NOTIFY_SOCKET": path})) == state


def test_several_states_are_one_datagram(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    assert received(path, lambda: sd_notify({"NOTIFY_SOCKET": path}, "READY=1", "STATUS=3 peers")) == b"READY=1\nSTATUS=3 peers"


def test_at_sign_names_an_abstract_socket() -> None:
    name = f"tartan-notify-{os.getpid()}"
    assert received(b"\0" + name.encode(), lambda: stopping({"NOTIFY_SOCKET": f"@{name}"})) == b"STOPPING=1"


def test_without_a_service_manager_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    ready({})
    assert not caplog.records


def test_manager_that_is_gone_is_logged_and_no_error(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    ready({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    (record,) = caplog.records
    assert record.getMessage() == "service manager cannot be told"
    assert getattr(record, FACTS)["socket"] == str(tmp_path / "gone")
