"""Streams of the docker command: terminals, attaching and detaching, signals, input and output of any size, logs as they grow."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time

import pytest

from runtime_cli import Docker

pytestmark = pytest.mark.root
PROMPT = "# "


def test_a_terminal_echoes_follows_its_users_size_and_gives_the_exit_code(docker: Docker) -> None:
    script = "tty; read line; echo got $line $TERM; trap 'exit 6' INT; while :; do stty size; sleep 0.1; done"
    with docker.terminal("run -it --rm --network none busybox sh -c", script, rows=30, columns=90) as terminal:
        terminal.sees("/dev/pts/0")
        terminal.type("this\n")
        terminal.sees("this\r\ngot this xterm\r\n30 90")
        time.sleep(0.3)  # the client looks out for changes only once the engine has told it of the start
        terminal.resize(41, 101)
        terminal.sees("41 101")
        terminal.type("\x03")
        assert terminal.ends() == 6


def test_control_c_at_a_terminal_is_the_programs(docker: Docker) -> None:
    with docker.terminal("run -it --rm --network none busybox sh") as terminal:
        terminal.sees(PROMPT)
        terminal.type("sleep 1000\n")
        time.sleep(0.3)
        terminal.type("\x03")
        terminal.sees(PROMPT)
        terminal.type("exit\n")
        assert terminal.ends() == 130


@pytest.mark.parametrize(("flags", "keys"), [("", "\x10\x11"), ("--detach-keys ctrl-a,x", "\x01x")])
def test_detach_keys_leave_it_running_for_two_to_attach_to(docker: Docker, flags: str, keys: str) -> None:
    with docker.terminal(f"run -it --name web --network none {flags} busybox sh") as terminal:
        terminal.sees(PROMPT)
        terminal.type("echo here\n")
        terminal.sees("here\r\n")
        terminal.type(keys)
        assert terminal.ends() == 0
    with docker.terminal("attach web") as one, docker.terminal("attach web") as other:
        one.type("\n")
        one.sees(PROMPT)
        other.type("\n")
        other.sees(PROMPT)
        one.type("echo both; exit 3\n")
        other.sees("both\r\n")
        assert (one.ends(), other.ends()) == (3, 3)
    assert re.search(r"here.*both", docker("logs web"), re.DOTALL)


def test_exec_has_a_terminal_of_its_own(docker: Docker) -> None:
    docker("run -d --name web --network none busybox sleep 1000")
    with docker.terminal("exec -it -e A=1 web sh", rows=20, columns=70) as terminal:
        terminal.sees(PROMPT)
        terminal.type("stty size\n")
        terminal.sees("20 70")
        terminal.resize(21, 71)
        terminal.type("sleep 0.2; stty size; exit 4\n")
        terminal.sees("21 71")
        assert terminal.ends() == 4
    with docker.terminal("exec -it web sh") as terminal:
        terminal.sees(PROMPT)
        terminal.type("\x10\x11")
        assert terminal.ends() == 1  # as Docker's: the client cannot know a process that goes on
    assert "sh" in docker("top web -eo pid,comm")


def test_start_attached_shows_what_comes_and_takes_input(docker: Docker) -> None:
    docker("create --name web -i --network none busybox sh -c", "read line; echo got $line; exit 9")
    assert docker.said("start -ai web", stdin=b"this\n").out == "got this\n"
    said = docker.said("start -ai web")
    assert (said.code, said.out) == (9, "got\n")


@pytest.mark.parametrize("size", [0, 1, 65_536, 20_000_001])
def test_input_of_any_size_arrives_whole_and_ends(docker: Docker, size: int) -> None:
    data = os.urandom(size)
    digest = hashlib.sha256(data).hexdigest()
    assert docker("run -i --rm --network none busybox sha256sum", stdin=data).split()[0] == digest
    docker("run -d --name web --network none busybox sleep 1000")
    assert docker("exec -i web sha256sum", stdin=data).split()[0] == digest


def test_output_of_any_size_arrives_whole(docker: Docker) -> None:
    many = docker("run --rm --name web --network none busybox sh -c", "seq 300000; seq 300000 >&2")
    assert many.split() == [str(number) for number in range(1, 300_001)]
    docker("run -d --name long --network none busybox sh -c", "head -c 300000 /dev/zero | tr '\\0' x; echo; echo end")
    docker("wait long")
    assert [len(line) for line in docker("logs long").split("\n")] == [300_000, 3]


def test_a_signal_to_the_client_is_the_containers(docker: Docker) -> None:
    script = "trap 'echo term; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    with docker.beside("run --rm --network none busybox sh -c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 7
        assert running.stdout.read() == "term\n"


def test_logs_follow_a_container_to_its_end_and_are_cut_to_size(docker: Docker) -> None:
    docker("run -d --name web --network none busybox sh -c", "for n in 1 2 3 4 5 6; do echo $n; sleep 0.1; done")
    assert docker("logs -f web") == "1\n2\n3\n4\n5\n6"
    assert docker("logs --tail 2 web") == "5\n6"
    stamped = [line.partition(" ") for line in docker("logs -t web").split("\n")]
    assert docker("logs", "--since", stamped[3][0], "--until", stamped[4][0], "web") == "4\n5"
    assert docker("logs --since 10m --tail all web").startswith("1\n2")
    assert docker("logs --until 10m web") == ""


def test_logs_rotate_and_are_read_over_all_files(docker: Docker) -> None:
    docker("run -d --name web --network none --log-opt max-size=20k --log-opt max-file=3 busybox seq 2000")
    docker("wait web")
    lines = docker("logs web").split()
    assert lines[-1] == "2000"
    assert 300 < len(lines) < 2000
    assert lines == [str(number) for number in range(2001 - len(lines), 2001)]


def test_log_details_are_those_that_log_options_name(docker: Docker) -> None:
    options = "--log-opt labels=tier --log-opt env=A,B -l tier=front -l other=x -e A=1"
    docker(f"run --name web --network none {options} busybox echo hi")
    assert docker("logs --details web") == "A=1,tier=front hi"
    docker("run --name plain --network none busybox echo hi")
    assert docker("logs --details plain") == " hi"
    docker("run --name mute --network none --log-driver none busybox echo hi")
    assert "configured logging driver does not support reading" in docker.refused("logs mute")


def test_attaching_to_one_output_shows_that_alone(docker: Docker) -> None:
    said = docker.said("run --rm --network none -a stderr busybox sh -c", "echo out; echo err >&2")
    assert (said.out, said.err) == ("", "err\n")


def test_a_client_that_is_gone_takes_nothing_with_it(docker: Docker) -> None:
    with docker.beside("run --name web --network none busybox sh -c", "echo up; exec sleep 1000") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.kill()
    assert docker("ps --format {{.Names}}") == "web"
    with docker.beside("attach --sig-proxy=false web"):
        time.sleep(0.2)
    assert docker("ps --format {{.Names}}") == "web"


def test_exec_says_what_it_cannot_start(docker: Docker) -> None:
    docker("run -d --name web --network none busybox sleep 1000")
    for line, code, why in (
        ("exec web nope", 127, 'exec: "nope": executable file not found in .PATH'),
        ("exec web /tmp", 126, "permission denied"),
        ("exec -w /no/such web true", 127, "no such file or directory"),
        ("exec -u nobodyknows web true", 126, "unable to find user nobodyknows"),
    ):
        said = docker.said(line)
        assert (said.code, bool(re.search(why, said.out + said.err))) == (code, True), said
    docker("pause web")
    assert "is paused, unpause the container before exec" in docker.refused("exec web true")
    docker("unpause web")
    docker("stop -t 0 web")
    assert "is not running" in docker.refused("exec web true")
    assert docker.refused("exec nobody true") == "Error response from daemon: No such container: nobody"


def test_events_come_while_they_happen_and_are_filtered(docker: Docker) -> None:
    form = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"
    with docker.beside("events -f type=container -f event=start -f event=die --format", form) as events:
        assert events.stdout is not None
        time.sleep(0.3)
        docker("run --rm --name web --network none busybox true")
        assert [events.stdout.readline() for _ in range(2)] == ["container start web\n", "container die web\n"]
