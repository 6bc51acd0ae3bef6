"""What is put into a safe is found by the next run, whoever keeps it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flanneld.linux import holder
from flanneld.linux.safe import HoldersSafe, ManagersSafe

NEXT_RUN = """
import os
from flanneld.linux.safe import ManagersSafe
safe = ManagersSafe("network", os.environ)
print(os.read(safe.take("pipe"), 100).decode(), safe.take("pipe"), ManagersSafe("other", {}).take("pipe"))
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


def test_the_holder_is_small(pipe: tuple[int, int]) -> None:
    source = Path(holder.__file__).read_text()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith("import ")}
    assert imported == {"os", "socket", "struct", "sys"}


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
    given = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": stored.decode().partition("FDNAME=")[2], "PATH": os.environ["PATH"]}
    shell = f'exec 3<&{descriptor}; LISTEN_PID=$$ exec "$0" -c "$1"'
    said = subprocess.run(
        ["bash", "-c", shell, sys.executable, NEXT_RUN],
        env=given,
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["late", "None", "None"]
    os.close(descriptor)
