"""Flags of `docker run`: what a container is given by each of them, seen from inside; and what is refused, in Docker's words."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from runtime_cli import Docker

pytestmark = pytest.mark.root
NONE = "run --rm --network none"
CONTAINED = 0x00000000A80425FB
"""Docker's capabilities."""
CHOWN, NET_ADMIN = 1 << 0, 1 << 12


@pytest.mark.parametrize(
    ("flags", "command", "seen"),
    [
        ("", "hostname; cat /etc/hostname", r"([0-9a-f]{12})\n\1"),
        ("-e A=1 -e B -e C=", "echo $A,$B,${C-unset}", "1,,"),
        ("-w /made/for/it", "pwd", "/made/for/it"),
        ("-u nobody", "id; echo $HOME", r"uid=65534\(nobody\) gid=65534\(nogroup\).*\n/"),
        ("-u 5:7 --group-add 77", "id", r"uid=5 gid=7 groups=7,77"),
        ("--entrypoint /bin/echo", "", r"-c"),
        ("--read-only --tmpfs /t:size=1m,mode=700", "touch /x; touch /t/x && df -k /t | grep -o 1024 | head -n1", "1024"),
        ("--shm-size 2m", "df -k /dev/shm | tail -n1", r"2048 "),
        ("--ulimit nofile=100:200", "ulimit -n; ulimit -Hn", "100\n200"),
        ("--init", "cat /proc/1/comm", "docker-init|init"),
        ("--sysctl net.ipv4.ip_default_ttl=9", "cat /proc/sys/net/ipv4/ip_default_ttl", "9"),
        ("--device /dev/null:/dev/mine:rw", "echo x > /dev/mine; ls -l /dev/mine", r"^crw.* 1, +3 "),
        ("--pid host", "ls -d /proc/[0-9]* | wc -l", r"\d\d+"),
        ("--uts host", "hostname", re.escape(os.uname().nodename)),
        ("--ipc none", "ls -d /dev/shm || echo none", "^none"),
        ("--label a=b --annotation c=d --stop-signal INT --stop-timeout 3", "echo taken", "taken"),
        ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", "1"),
        ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", "0"),
        ("", "grep Seccomp: /proc/self/status", "2"),
        ("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500"),
        ("--dns 9.9.9.9 --dns-search a.example --dns-option ndots:3", "cat /etc/resolv.conf", ""),
    ],
)
def test_a_flag_is_seen_inside(docker: Docker, flags: str, command: str, seen: str) -> None:
    assert re.search(seen, docker(f"{NONE} {flags} busybox sh -c", command)), seen


def test_a_container_knows_itself_and_hosts_it_is_told_of(docker: Docker) -> None:
    flags = "--hostname web --domainname example.org --add-host other:192.0.2.7 --add-host gate:host-gateway"
    said = docker(f"run --rm {flags} busybox sh -c", "hostname; hostname -f; cat /etc/hostname; cat /etc/hosts").split("\n")
    assert said[:3] == ["web", "web.example.org", "web"]
    assert {"192.0.2.7\tother", "172.17.0.1\tgate", "127.0.0.1\tlocalhost"} < set(said)
    assert said[-1].endswith("\tweb.example.org web")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", CONTAINED),
        ("--cap-add NET_ADMIN", CONTAINED | NET_ADMIN),
        ("--cap-drop CHOWN", CONTAINED & ~CHOWN),
        ("--cap-drop ALL --cap-add cap_chown", CHOWN),
        ("-u nobody", 0),
    ],
)
def test_capabilities_are_dockers(docker: Docker, flags: str, expected: int) -> None:
    assert int(docker(f"{NONE} {flags} busybox grep CapEff /proc/self/status").split()[1], 16) == expected


def test_a_privileged_container_may_what_the_engine_may(docker: Docker) -> None:
    held = int(re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)  # type: ignore[index]
    inside = docker.said(f"{NONE} --privileged busybox grep CapEff /proc/self/status")
    assert (inside.code, int(inside.out.split()[1], 16)) == (0, held)
    docker(f"{NONE} --privileged busybox mount -t tmpfs none /tmp")


def test_limits_are_the_kernels_and_inspects(docker: Docker) -> None:
    limits = "-m 64m --memory-swap 96m --cpus 0.5 --pids-limit 50 --cpu-shares 512 --cpuset-cpus 0"
    docker(f"run -d --name web {limits} busybox sleep 100")
    wanted = "{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.NanoCpus}} {{.PidsLimit}} {{.CpuShares}} {{.CpusetCpus}}{{end}}"
    assert docker("inspect -f", wanted, "web") == f"{64 << 20} {96 << 20} 500000000 50 512 0"
    files = "memory/memory.limit_in_bytes memory.max pids/pids.max pids.max"
    assert docker.said("exec -w /sys/fs/cgroup web sh -c", f"cat {files}").out.split() == [str(64 << 20), "50"]
    docker("update -m 128m --memory-swap 256m --restart unless-stopped web")
    assert docker("stats --no-stream --format {{.MemUsage}} web").endswith(" / 128MiB")
    assert docker("inspect -f {{.HostConfig.RestartPolicy.Name}} web") == "unless-stopped"


def test_a_container_out_of_memory_is_killed_and_says_so(docker: Docker) -> None:
    limits = "--network none -m 16m --memory-swap 16m"
    said = docker.said(f"run --name fat {limits} busybox sh -c", "dd if=/dev/zero of=/dev/null bs=64M")
    assert said.code == 137
    assert docker("inspect -f {{.State.OOMKilled}} fat") == "true"


def test_an_env_file_and_a_cidfile_and_labels_of_a_file(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=1\n# not this\nB=two words\n")
    (tmp_path / "labels").write_text("tier=front\n")
    files = f"--env-file {tmp_path}/env --label-file {tmp_path}/labels --cidfile {tmp_path}/cid"
    assert docker(f"run --name web {files} busybox sh -c", "echo $A $B") == "1 two words"
    assert docker("ps -aq --no-trunc -f label=tier=front") == (tmp_path / "cid").read_text()
    assert "container ID file found" in docker.refused(f"run {files} busybox true", code=125)


@pytest.mark.parametrize(
    ("flags", "code", "why"),
    [
        ("busybox nope", 127, 'exec: "nope": executable file not found in $PATH: unknown'),
        ("busybox /no/such", 127, "no such file or directory: unknown"),
        ("busybox /tmp", 126, "permission denied: unknown"),
        ("-w /etc/passwd busybox pwd", 125, "Cannot mkdir: /etc/passwd is not a directory"),
        ("-w relative busybox pwd", 125, "the working directory 'relative' is invalid, it needs to be an absolute path"),
        ("-u nobodyknows busybox id", 125, "unable to find user nobodyknows: no matching entries in passwd file"),
        ("--network nowhere busybox true", 125, "network nowhere not found"),
        ("--network container:nobody busybox true", 125, "No such container: nobody"),
        ("--link nobody:web busybox true", 125, "could not get container for nobody: No such container: nobody"),
        ("--volumes-from nobody busybox true", 125, "No such container: nobody"),
        ("--volume-driver nfs3 -v data:/x busybox true", 125, 'error looking up volume plugin nfs3: plugin "nfs3" not found'),
        ("-v data:/x:wo busybox true", 125, "invalid mode: wo"),
        ("-v data:/ busybox true", 125, "invalid specification: destination can't be '/'"),
        ("--mount type=bind,src=/no/such,dst=/x busybox true", 125, "bind source path does not exist: /no/such"),
        ("-v /etc:/x -v /tmp:/x busybox true", 125, "Duplicate mount point: /x"),
        ("-m 1m busybox true", 125, "Minimum memory limit allowed is 6MB"),
        ("--cpus 9999 busybox true", 125, "range of CPUs is from 0.01 to"),
        ("--cap-add FLY busybox true", 125, 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        ("--runtime io.containerd.kata.v2 busybox true", 125, "unknown or invalid runtime name"),
        ("--runtime nope busybox true", 125, "unknown or invalid runtime name: nope"),
        ("--log-driver papyrus busybox true", 125, "error looking up logging plugin papyrus"),
        ("--log-opt colour=red busybox true", 125, "unknown log opt 'colour' for json-file log driver"),
        ("--stop-signal NOPE busybox true", 125, "invalid signal: NOPE"),
        ("--device /dev/nope busybox true", 127, 'adding custom device "/dev/nope": no such file or directory'),
        ("--gpus all busybox true", 125, 'could not select device driver "" with capabilities: [[gpu]]'),
        ("--pull never nope true", 125, "No such image: nope:latest"),
        ("--ip 172.17.0.9 busybox true", 125, "user specified IP address is supported on user defined networks only"),
        ("--network none --network host busybox true", 125, "cannot"),
        ("--name web! busybox true", 125, "Invalid container name (web!), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        ("--health-cmd x --health-interval 1us busybox true", 125, "Interval in Healthcheck cannot be less than 1ms"),
    ],
)
def test_what_cannot_be_run_is_refused_and_leaves_nothing(docker: Docker, flags: str, code: int, why: str) -> None:
    said = docker.refused(f"run --rm {flags}", code=code)
    assert why in said
    assert "Unable to find image 'busybox" not in said, "the client would pull what is there"
    assert docker("ps -aq") == ""


def test_a_name_is_one_containers(docker: Docker) -> None:
    first = docker("create --name web busybox")
    why = docker.refused("run --name web busybox true", code=125)
    assert f'The container name "/web" is already in use by container "{first}"' in why


def test_ports_of_the_hosts_network_are_told_to_be_ignored(docker: Docker) -> None:
    said = docker.said("run --rm --network host -p 80:80 busybox true")
    assert (said.code, said.err) == (0, "WARNING: Published ports are discarded when using host network mode\n")


def test_restart_policies_start_again_what_has_failed(docker: Docker) -> None:
    docker("run -d --name often --network none --restart on-failure:2 busybox sh -c", "echo try; exit 3")
    docker.until("inspect -f", "{{.State.Status}} {{.RestartCount}}", "often", says="exited 2")
    assert docker("logs often") == "try\ntry\ntry"
    docker("run -d --name always --network none --restart always busybox sh -c", "exec sleep 1000")
    pid = docker("inspect -f {{.State.Pid}} always")
    os.kill(int(pid), 9)
    docker.until("inspect -f", "{{.State.Status}} {{.RestartCount}}", "always", says="running 1")
    docker("stop -t 0 always")
    assert docker("inspect -f {{.State.Status}} always") == "exited"


def test_health_is_told_by_its_command(docker: Docker) -> None:
    health = "--health-interval 100ms --health-retries 2 --health-timeout 5s --health-start-interval 50ms"
    docker(f"run -d --name web --network none {health} --health-cmd 'test -e /well || (echo not yet; exit 1)' busybox sleep 1000")
    docker.until("ps --format {{.Status}}", says="unhealthy")
    assert "not yet" in docker("inspect -f", "{{json .State.Health.Log}}", "web")
    docker("exec web touch /well")
    docker.until("ps -f health=healthy --format {{.Names}}", says="web")
    assert json.loads(docker("inspect -f", "{{json .State.Health}}", "web"))["FailingStreak"] == 0


def test_a_stop_signal_and_its_timeout_are_the_containers_own(docker: Docker) -> None:
    script = "trap 'echo hup; exit 5' HUP; echo up; while :; do sleep 0.05; done"
    docker("run -d --name web --network none --stop-signal HUP busybox sh -c", script)
    docker.until("logs web", says="up")
    docker("stop web")
    assert docker("wait web") == "5"
    assert docker("logs web") == "up\nhup"
    docker("run -d --name deaf --network none --stop-timeout 0 busybox sleep 1000")
    docker("stop deaf")
    assert docker("inspect -f {{.State.ExitCode}} deaf") == "137"
    docker("start web")
    docker.until("logs web", says="up\nhup\nup")
    docker("kill -s HUP web")
    assert docker("wait web") == "5"


def test_namespaces_are_shared_with_another_container(docker: Docker) -> None:
    docker("run -d --name one --ipc shareable busybox sh -c", "echo 7 > /dev/shm/x; exec sleep 1000")
    shared = "--network container:one --pid container:one --ipc container:one"
    assert docker(f"run --rm {shared} busybox sh -c", "cat /dev/shm/x; ps | grep -c 'sleep 1000'").split()[0] == "7"
    link = "readlink /proc/self/ns/net"
    assert docker(f"run --rm {shared} busybox {link}") == docker(f"exec one {link}")


def test_a_container_cannot_see_or_touch_what_is_not_its_own(docker: Docker) -> None:
    hidden = (
        "cat /proc/kcore | head -c 1; cat /proc/keys; ls /sys/firmware; echo x > /proc/sys/kernel/domainname; mount -t proc p /tmp"
    )
    said = docker.said(f"{NONE} busybox sh -c", hidden)
    assert said.out == ""
    assert "Read-only file system" in said.err
    assert re.search("permission denied|Operation not permitted", said.err)
    assert docker(f"{NONE} busybox ls /proc/self/fd").split() == ["0", "1", "2", "3"], "ls itself has one open"
