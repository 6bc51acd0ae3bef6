"""The real kubectl at our engine's pods: exec, attach and port forwarding over SPDY, through a stand-in for what is between."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cni_plugin_sets import PROGRAMS, TARTAN, missing
from flanneld_world import eventually
from lab import LabError
from pod_checks import page
from runtime_cri_host import NEEDS, SOCKET, Pod, TartanHost, one_tartan_host

pytestmark = pytest.mark.root
STAND_IN = (sys.executable, "-P", str(Path(__file__).parent.parent / "kube_streams.py"), str(SOCKET))
PAGE = "mkdir -p /www; echo hello >/www/index.html; exec httpd -f -p 80 -h /www"


@dataclass
class Kubectl:
    """A client whose API server is our stand-in, on the engine's host."""

    runtime: TartanHost
    arguments: list[str]

    def __call__(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.runtime.host.run([*self.arguments, *argv], stdin=stdin, check=check, timeout_s=20)

    def start(self, *argv: str, terminal: int | None = None) -> subprocess.Popen[str]:
        ends = subprocess.PIPE if terminal is None else terminal
        return self.runtime.host.popen([*self.arguments, *argv], stdin=ends, stdout=ends, stderr=ends)


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    if why := missing(TARTAN, (*NEEDS, "kubectl")):
        pytest.skip(why)
    directory = tmp_path_factory.mktemp("kubectl")
    with one_tartan_host(directory) as runtime:
        stand_in = runtime.host.popen(STAND_IN, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert stand_in.stdout
        server = f"http://127.0.0.1:{stand_in.stdout.readline().strip()}"
        try:
            yield Kubectl(runtime, [str(PROGRAMS / "kubectl"), "--server", server, "--cache-dir", str(directory / "cache")])
        finally:
            stand_in.communicate(timeout=10)


@pytest.fixture
def pod(kubectl: Kubectl) -> Iterator[Pod]:
    pod = kubectl.runtime.pod("web")
    pod.start("sh", "-c", PAGE, log_path="")
    try:
        yield pod
    finally:
        kubectl.runtime.clear()


def test_a_command_is_run_and_its_end_is_told(kubectl: Kubectl, pod: Pod) -> None:
    said = kubectl("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (said.stdout, said.returncode) == ("out\n", 7)
    assert said.stderr == "err\ncommand terminated with exit code 7\n"
    absent = kubectl("exec", "web", "--", "nosuch", check=False)
    assert "executable file not found" in absent.stderr


def test_a_command_is_typed_at(kubectl: Kubectl, pod: Pod) -> None:
    much = "0123456789abcde\n" * 65536
    assert kubectl("exec", "-i", "web", "--", "cat", stdin=much).stdout == much


def test_a_terminal_is_as_large_as_the_users(kubectl: Kubectl, pod: Pod) -> None:
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "rows", "33", "cols", "111"], stdin=theirs, check=True)
    running = kubectl.start("exec", "-it", "web", "--", "sh", "-c", "read x; busybox stty size; exit 4", terminal=theirs)
    os.close(theirs)
    os.write(ours, b"go\n")
    said = b""
    try:
        while b"33 111" not in said:
            said += os.read(ours, 4096)
    except OSError as error:  # it has ended, and with it the terminal
        raise AssertionError(said) from error
    finally:
        assert running.wait(10) == 4
        os.close(ours)


def test_a_container_is_attached_to(kubectl: Kubectl, pod: Pod) -> None:
    kubectl.runtime.clear()
    again = kubectl.runtime.pod("reads")
    again.start("sh", "-c", "read line; echo got $line; sleep 1000000", stdin=True, stdin_once=True, log_path="")
    running = kubectl.start("attach", "-i", "reads")
    assert running.stdin
    assert running.stdout
    running.stdin.write("words\n")
    running.stdin.flush()
    assert running.stdout.readline() == "got words\n"
    running.terminate()
    running.communicate(timeout=10)


def test_ports_lead_into_the_pod(kubectl: Kubectl, pod: Pod) -> None:
    running = kubectl.start("port-forward", "web", "18080:80", "18081:81")
    try:
        assert running.stdout
        assert running.stdout.readline().startswith("Forwarding from 127.0.0.1:18080")
        for _ in range(3):
            assert page("http://127.0.0.1:18080/", kubectl.runtime.host) == "hello"
        with pytest.raises(LabError, match=r"Empty reply|reset"):
            kubectl.runtime.host.run(["curl", "-sS", "--max-time", "5", "http://127.0.0.1:18081/"])
        eventually(lambda: running.poll() is None, "it goes on")
    finally:
        running.terminate()
        _, errors = running.communicate(timeout=10)
    assert "connection refused" in errors
