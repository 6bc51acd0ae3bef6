"""An engine that ends, is killed or is started again under its containers: none of them notices, and nothing of theirs is lost."""

from __future__ import annotations

import os
import re
import select
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime_cli import Docker, Served

pytestmark = pytest.mark.root
MANY = 20


def test_twenty_containers_outlive_the_engines_kill_with_their_logs_and_codes(served: Served, docker: Docker) -> None:
    script = "echo before; while ! test -e /go; do sleep 0.1; done; echo after; exit $1"

    def begin(number: int) -> str:
        return docker(f"run -d --name c{number} --network none busybox sh -c", script, "sh", str(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(begin, range(MANY)))
        served.kill()
        served.start()
        assert len(docker("ps -q").split()) == MANY
        list(threads.map(lambda number: docker.said(f"exec c{number} touch /go"), range(MANY)))  # which may end before its touch
        codes = list(threads.map(lambda number: docker(f"wait c{number}"), range(MANY)))
    assert codes == [str(number) for number in range(MANY)]
    assert {docker(f"logs c{number}") for number in range(MANY)} == {"before\nafter"}


def test_what_ended_while_no_engine_was_there_is_known_to_the_next(served: Served, docker: Docker) -> None:
    docker("run -d --name job --network none busybox sh -c", "while ! test -e /tmp/go; do sleep 0.05; done; echo done; exit 7")
    docker("run -d --name gone --rm --network none busybox sleep 1000")
    docker("run -d --name always --restart always --network none busybox sh -c", "echo started; exec sleep 1000")
    pids = {name: int(docker("inspect -f {{.State.Pid}}", name)) for name in ("job", "gone", "always")}
    served.kill()
    os.close(os.open(f"/proc/{pids['job']}/root/tmp/go", os.O_CREAT | os.O_WRONLY))
    for name in ("gone", "always"):
        os.kill(pids[name], signal.SIGKILL)
    _await_end(pids["job"])
    served.start()
    assert docker("inspect -f", "{{.State.Status}} {{.State.ExitCode}}", "job") == "exited 7"
    assert docker("logs job") == "done"
    docker.until("ps -a --format", "{{.Names}} {{.State}}", says="always running")
    docker.until("logs always", says="started\nstarted")
    assert "gone" not in docker("ps -a --format {{.Names}}").split()


def _await_end(pid: int) -> None:
    """It is no child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 20)[0]
    finally:
        os.close(descriptor)


def test_a_terminal_is_attached_to_again_after_a_restart(served: Served, docker: Docker) -> None:
    with docker.terminal("run -it --name web --network none busybox sh") as terminal:
        terminal.sees("# ")
        terminal.type("\x10\x11")
        assert terminal.ends() == 0
    served.stop()
    served.start()
    with docker.terminal("attach web") as terminal:
        terminal.type("echo again; exit 3\n")
        terminal.sees("again\r\n")
        assert terminal.ends() == 3


def test_networks_ports_names_and_volumes_are_as_before(served: Served, docker: Docker) -> None:
    docker("network create --subnet 10.9.0.0/24 mine")
    serve = ("sh", "-c", "echo hi > /data/index.html; exec httpd -f -p 80 -h /data")
    docker("run -d --name web --network mine -p 8080:80 -v data:/data busybox", *serve)
    docker("run -d --name client --network mine busybox sleep 1000")
    before = docker("inspect -f", "{{json .NetworkSettings.Networks}}", "web")
    served.kill()
    served.start()
    assert docker("inspect -f", "{{json .NetworkSettings.Networks}}", "web") == before
    assert re.match(r"80/tcp -> 0\.0\.0\.0:8080", docker("port web"))
    docker.until("exec client wget -qO- http://web/", says="hi")
    assert "volume is in use" in docker.refused("volume rm data")
    docker("restart -t 0 web")
    docker.until("exec client wget -qO- http://web/", says="hi")
    assert docker("run --rm --network mine busybox wget -qO- http://web/") == "hi"


def test_two_engines_never_share_a_root(served: Served) -> None:
    log = served.directory / "second"
    second = served.spawn(served.command, log)
    try:
        assert second.wait(30) != 0
    finally:
        second.kill()
        second.wait()
    assert "another engine works in" in log.read_text()
    assert served.docker("version --format {{.Server.Os}}") == "linux"
