"""What is put into a safe is found by the next run, whoever keeps it."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
import uuid
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from flanneld.linux import holder
from flanneld.linux.safe import HoldersSafe, ManagersSafe

NEXT_RUN = """
import os
from flanneld.linux.safe import ManagersSafe
from flanneld.linux.safe import let_go_unclaimed
safe = ManagersSafe("network", os.environ)
found = safe.take("pipe")
print(os.read(found, 100).decode(), os.get_inheritable(found), safe.take("pipe"), ManagersSafe("other", {}).take("pipe"))
os.close(found)
again = os.open("/dev/null", os.O_RDONLY)
print(again == found, ManagersSafe("network", os.environ).take("pipe"))
let_go_unclaimed()
os.fstat(again)
os.fstat(5)
try:
    os.fstat(4)
except OSError:
    print("closed")
"""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading end and the writing end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_the_holder_gives_back_what_was_put_and_forgets_what_was_dropped(pipe: tuple[int, int]) -> None:
    name = uuid.uuid4().hex
    first = HoldersSafe(name)
    assert first.take("pipe") is None
    for key in ("pipe", "other", "pipe"):
        first.put(key, pipe[0])
    first.drop("other")
    first.drop("never there")
    first.close()
    os.close(pipe[0])
    os.write(pipe[1], b"late, not lost")
    second = HoldersSafe(name)
    found = second.take("pipe")
    assert found is not None
    assert not os.get_inheritable(found)
    assert os.read(found, 100) == b"late, not lost"
    assert (second.take("pipe"), second.take("other")) == (None, None)
    os.close(found)
    second.drop("pipe")
    second.close()  # with nothing left to keep it ends


def test_a_holder_serves_one_daemon_at_a_time(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flanneld.linux.safe.PATIENCE_S", 0.2)
    name = uuid.uuid4().hex
    first = HoldersSafe(name)
    with pytest.raises(TimeoutError):
        HoldersSafe(name)
    first.close()


def test_what_is_let_go_is_free_at_once_for_the_next_safe_of_that_name() -> None:
    name = uuid.uuid4().hex
    for _ in range(20):
        safe = HoldersSafe(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as underlay:
            underlay.bind(("127.0.0.1", 38285))
            safe.put("underlay", underlay.fileno())
            safe.drop("underlay")
        safe.close()


def test_a_holder_of_another_user_is_given_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may bind an abstract address; the kernel says who listens there."""
    name = uuid.uuid4().hex
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0flanneld holder {hashlib.sha256(name.encode()).hexdigest()}")
        listener.listen()
        monkeypatch.setattr("flanneld.linux.safe.peer_uid", lambda _: os.geteuid() + 1)
        with pytest.raises(PermissionError, match="has taken the holder's name"):
            HoldersSafe(name)
        with listener.accept()[0] as client:
            assert client.recv(100) == b""


def reached(address: str) -> bool:
    """True if somebody listens there; says so after a moment."""
    time.sleep(0.02)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        return stranger.connect_ex(address) == 0


def test_strangers_do_not_make_a_holder_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "HOLD_S", 0.5)
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(holder, "peer_uid", lambda _: os.geteuid() + 1)
    address = f"\0{uuid.uuid4().hex}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    monkeypatch.setattr(sys, "argv", ["holder.py", str(listener.detach())])
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(holder.main)
        answers = [reached(address) for _ in range(200)]
        assert not answers[-1], "it has ended, though somebody came every 20 ms for four seconds"
        ended.result(1)


def test_the_holder_is_small(pipe: tuple[int, int]) -> None:
    source = Path(holder.__file__).read_text()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith("import ")}
    assert imported == {"os", "socket", "struct", "sys", "time"}


def test_a_service_manager_keeps_descriptors_under_names_that_say_whose_they_are(pipe: tuple[int, int], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        ManagersSafe("network", environ).put("pipe", pipe[0])
        assert manager.recv(500).startswith(b"FDSTOREREMOVE=1\nFDNAME=")
        stored, rights, _, _ = manager.recvmsg(500, 100)
    assert stored.startswith(b"FDSTORE=1\nFDNAME=")
    (descriptor,) = array("i", rights[0][2])
    os.write(pipe[1], b"late")
    names = f"{stored.decode().partition('FDNAME=')[2]}:flanneld-former-pipe:anothers"
    given = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": names, "PATH": os.environ["PATH"]}
    shell = f'exec 3<&{descriptor} 4<&{descriptor} 5<&{descriptor}; LISTEN_PID=$$ exec "$0" -c "$1"'
    said = subprocess.run(
        ["bash", "-c", shell, sys.executable, NEXT_RUN],
        env=given,
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["late", "False", "None", "None", "True", "None", "closed"]
    os.close(descriptor)
