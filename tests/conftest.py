"""What every test run shares: root where the real kernel is needed, and proof that the run left nothing on the machine."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no bug: nothing here is timed, but what hangs is ended.
hypothesis.settings.register_profile("tartan", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tartan")

TESTS = Path(__file__).parent
SESSION = "TARTAN_TEST_SESSION"
"""Environment variable that marks every process started, however indirectly, by this run's workers."""
SETTLE_S = 5.0
"""How long what is on its way out (a namespace that a dying process still holds) may take."""

before = pytest.StashKey[set[str]]()
left_behind = pytest.StashKey[set[str]]()
runs_here = pytest.StashKey[int]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs root: all of tests/netns, and what is marked `root` elsewhere."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.path.is_relative_to(TESTS / "netns") or item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_sessionstart(session: pytest.Session) -> None:
    if _is_worker(session):
        return
    os.environ[SESSION] = uuid.uuid4().hex
    session.stash[runs_here] = os.open(__file__, os.O_RDONLY)
    fcntl.flock(session.stash[runs_here], fcntl.LOCK_SH)
    session.stash[before] = ours_on_this_machine()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Fail the run if it left something; innermost, so that xdist's workers have ended and pytest's summary is still to come."""
    yield
    if _is_worker(session) or before not in session.stash:
        return
    were_there = session.stash[before]
    deadline = time.monotonic() + SETTLE_S
    while (left := ours_on_this_machine() - were_there) and time.monotonic() < deadline:
        time.sleep(0.1)
    session.config.stash[left_behind] = left
    if left and _alone(session.stash[runs_here]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    os.close(session.stash[runs_here])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left = config.stash.get(left_behind, set())
    if left:
        terminalreporter.section("left behind (by this run, unless another ran at the same time)", red=True)
        for thing in sorted(left):
            terminalreporter.write_line(thing)


def ours_on_this_machine() -> set[str]:
    """Name everything a test or a lab could leave in the root namespaces."""
    found = {f"link {name}" for _, name in socket.if_nameindex()}
    for folder in ("/run/netns", "/run/tartan"):
        with suppress(FileNotFoundError):
            found |= {f"{folder}/{name}" for name in os.listdir(folder)}
    return found | _nft_tables() | _processes()


def _nft_tables() -> set[str]:
    if os.geteuid() != 0:
        return set()
    with suppress(FileNotFoundError):
        listing = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True, timeout=10)
        return {f"nft {line}" for line in listing.stdout.splitlines()}
    return set()


def _processes() -> set[str]:
    """Every living process that carries this run's mark: a daemon left alone keeps it when its parent is gone."""
    mark = f"{SESSION}={os.environ[SESSION]}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.add(f"process {entry.name}: {command}")
    return found


def _alone(descriptor: int) -> bool:
    """True if no other test run of this checkout is under way, whose things would look like ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_worker(session: pytest.Session) -> bool:
    return hasattr(session.config, "workerinput")
