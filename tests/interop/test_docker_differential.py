"""The same commands to this engine and to Docker's own: what the user sees has to be the same, but for ids, times and addresses.

Docker's is Debian's dockerd 20.10, in a host of its own; the client speaks API 1.41 to it. What Docker has changed since is
translated below, so that a difference that is found is one of ours.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime_cli import (
    PATIENCE_S,
    PROGRAMS,
    Docker,
    Said,
    await_answer,
    busybox_tar,
    host_spawn,
    remove_all,
    scratch_directory,
    served_engine,
)
from runtime_nets import engine_host

pytestmark = pytest.mark.root
DOCKERD = PROGRAMS.parent / "lib/docker/dockerd"
NEEDS = (DOCKERD, PROGRAMS / "containerd", PROGRAMS / "containerd-shim-runc-v2", PROGRAMS / "runc")
SINCE = (
    (r"failed to create task for container: ", ""),
    (r"failed to set up container networking: ", ""),
    (r"\b[0-9a-f]{64}\b", "ID"),
    (r"\b[0-9a-f]{12}\b", "SHORT"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"(Less than a second|About an? \w+|\d+ (seconds?|minutes?))( ago)?", "SPAN"),
    (r"\b172\.1\d\.0\.\d+", "ADDRESS"),
    (r"(?i)\b(02:42|0a:58|[0-9a-f]{2}:[0-9a-f]{2})(:[0-9a-f]{2}){4}\b", "MAC"),
    (r"sha256:ID", "DIGEST"),
    (r"\(e\.g\.[^)]*\)", ""),
    (r"(, \[::\]:\d+->\S+|\[::\]:\d+\n?|80/tcp -> \[::\]:\d+\n?)", ""),
    (r"/\w+/tartan-\w+/", "/ROOT/"),
    (r"brd \S+ ", ""),
    (r"\n\nRun 'docker [^\n]*", ""),
    (r"\n+$", ""),
)
"""What differs by nature, or has other words since 20.10."""

CASES = {
    "run": (
        "run --rm busybox echo hi",
        "run --rm busybox sh -c 'exit 3'",
        "run --rm busybox sh -c 'echo o; echo e >&2; exit 4'",
        "run --rm busybox nosuch",
        "run --rm busybox /tmp",
        "run --rm busybox /etc/passwd",
        "run --rm busybox ''",
        "run --rm --entrypoint echo busybox hi",
        "run --rm -e A=1 -w /foo -u nobody busybox sh -c 'id; pwd; echo $A $HOME'",
        "run --rm -u nouser busybox id",
        "run --rm -w /etc/passwd busybox pwd",
        "run --rm --pull never nonex true",
        "run --rm --net nowhere busybox true",
        "run --rm --net container:nobody busybox true",
        "run --rm --link nobody:x busybox true",
        "run --rm -a stdout busybox sh -c 'echo o; echo e >&2'",
        "run --rm --log-driver none busybox echo hi",
    ),
    "seen inside": (
        "run --rm --hostname foo --domainname bar.org busybox sh -c 'hostname; hostname -f; cat /etc/hostname; tail -1 /etc/hosts'",
        "run --rm busybox grep Cap /proc/self/status",
        "run --rm --cap-add NET_ADMIN --cap-drop CHOWN busybox grep CapEff /proc/self/status",
        "run --rm --cap-drop ALL busybox grep Cap /proc/self/status",
        "run --rm busybox grep -e NoNew -e Seccomp: /proc/self/status",
        "run --rm --shm-size 1m busybox df /dev/shm",
        "run --rm --tmpfs /t:mode=711 busybox stat -c %a /t",
        "run --rm --tmpfs /t busybox stat -c %a /t",
        "run --rm --tmpfs /root busybox stat -c %a /root",
        "run --rm --group-add 77 --ulimit nofile=100:200 busybox sh -c 'id; ulimit -n; ulimit -Hn'",
        "run --rm -m 64m --pids-limit 50 -w /sys/fs/cgroup busybox cat memory/memory.limit_in_bytes pids/pids.max",
        "run --rm busybox sh -c 'mount | cut -d\" \" -f3,5 | grep -v -e cgroup -e timer -e interrupts | sort -u'",
        "run --rm busybox sh -c 'ls -l /dev | cut -c1-10,57-'",
        "run --rm busybox sh -c 'ls /proc/self/fd; ls /sys/firmware; cat /proc/keys; wc -c < /proc/timer_list'",
        "run --rm --net none busybox ip -o link",
        "run --rm busybox env -u HOSTNAME env",
        "run --rm --init=false busybox ps",
    ),
    "a life": (
        "create --name c1 -p 8080:80 -l a=b busybox sleep 1000",
        "ps -a --format '{{.Status}} {{.Ports}} {{.Names}}'",
        "start c1",
        "ps --format '{{.Image}} {{.Command}} {{.Status}} {{.Ports}} {{.Names}}'",
        "port c1 81",
        "rename c1 c2",
        "rename c2 c2",
        "create --name c2 busybox",
        "exec c2 sh -c 'echo o; exit 7'",
        "exec -u 5 -w /tmp -e X=1 c2 sh -c 'id -u; pwd; echo $X'",
        "top c2 -eo comm",
        "pause c2",
        "pause c2",
        "ps --format '{{.Status}}'",
        "unpause c2",
        "unpause c2",
        "kill -s NOSIG c2",
        "kill -s KILL c2",
        "wait c2",
        "exec c2 true",
        "pause c2",
        "stop c2",
        "ps -a --format '{{.Status}} {{.Names}}'",
        "inspect -f '{{.State.ExitCode}} {{.State.Status}} {{.State.Running}} {{.RestartCount}} {{.State.OOMKilled}}' c2",
        "start c2",
        "update -m 64m --memory-swap 64m --restart no c2",
        "inspect -f '{{json .Config.Labels}} {{with .HostConfig}}{{json .RestartPolicy}} {{.Memory}} {{.MemorySwap}}{{end}}' c2",
        "inspect -f '{{json .HostConfig.PortBindings}} {{json .Config.ExposedPorts}} {{.Path}} {{.Args}}' c2",
        "rm -f c2",
        "rm c2",
        "rm -f c2",
    ),
    "nothing of that name": (
        *("start nobody", "stop nobody", "pause nobody", "logs nobody", "top nobody", "wait nobody", "port nobody"),
        *("diff nobody", "export nobody", "attach nobody", "stats nobody", "inspect nobody"),
        *("cp nobody:/x -", "commit nobody x", "rename nobody x", "exec nobody true", "update -m 64m nobody"),
    ),
    "files": (
        "run --name dd busybox sh -c 'echo x>/etc/new; rm /etc/group; mkdir /q; touch /q/w'",
        "cp dd:/nosuch /tmp/x",
        "cp /nosuch dd:/",
        "cp dd:/etc/new /no/such/dir/",
        "commit -m msg -a me -c 'ENV X=1' -c 'CMD [\"ls\"]' dd img:1",
        "history --format '{{.CreatedBy}} {{.Comment}}' --no-trunc img:1",
        "run --rm img:1",
        "inspect -f '{{json .Config}} {{.Author}} {{.Comment}} {{.Os}}' img:1",
        "tag img:1 img:2",
        "rmi img:1",
        "rmi busybox",
        "rm dd",
        "rmi img:2",
        "rmi img:2",
        "tag nosuch img:3",
    ),
    "images": (
        "images",
        "images --digests",
        "history busybox",
        "tag busybox a/b/c:x",
        "images 'a/*/*'",
        "images -f dangling=true",
        "images -f reference='*box'",
        "images -f since=busybox",
        "rmi a/b/c:x",
        "push nosuch",
        "pull FOO",
        "image inspect -f '{{json .Config}} {{json .RootFS}} {{.Architecture}} {{.Os}} {{.Created}}' busybox",
    ),
    "networks": (
        "network ls --format '{{.Name}} {{.Driver}} {{.Scope}}'",
        "network create --subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.128/25 --label a=b n2",
        "network create n2",
        "network inspect -f '{{json .IPAM.Config}} {{json .Options}} {{.Driver}} {{.Internal}} {{json .Labels}}' n2",
        "network create bridge",
        "network rm bridge",
        "network rm nosuch",
        "network inspect nosuch",
        "run -d --name w1 --net n2 --ip 10.9.0.7 --network-alias web busybox sleep 1000",
        "run -d --name w2 --net n2 busybox sleep 1000",
        "exec w2 cat /etc/resolv.conf",
        "exec w2 sh -c 'ping -c1 -q web | grep -c 10.9.0.7; ping -c1 -q w1 | grep -c 10.9.0.7'",
        "exec w2 ip route",
        "exec w2 sh -c 'ip -o -4 addr show eth0 | cut -d: -f2-'",
        "inspect -f '{{with .NetworkSettings.Networks.n2}}{{.IPAddress}} {{.IPPrefixLen}} {{.Gateway}}{{end}}' w2",
        "network connect n2 w2",
        "network connect nosuch w1",
        "network connect n2 nobody",
        "network disconnect n2 w2",
        "network disconnect n2 w2",
        "run --rm --net n2 --ip 10.9.0.7 busybox true",
        "rm -f w1 w2",
        "network rm n2",
    ),
    "volumes": (
        "volume create v1",
        "volume create v1",
        "volume ls",
        "volume inspect -f '{{.Driver}} {{.Name}} {{.Scope}} {{.Options}} {{.Labels}}' v1",
        "volume inspect nosuch",
        "volume create 'b d'",
        "volume create v",
        "run --rm -v v1:/d busybox sh -c 'echo hi > /d/f'",
        "run -d --name vc -v v1:/d -v /anon busybox sleep 1000",
        "volume rm v1",
        "inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.Mode}} {{.RW}} {{.Propagation}} {{.Driver}};{{end}}' vc",
        "run --rm --volumes-from vc:ro busybox sh -c 'cat /d/f; touch /d/f'",
        "rm -fv vc",
        "run --rm -v v1:/x:bad busybox true",
        "run --rm -v v1:x busybox true",
        "run --rm -v v1:/ busybox true",
        "run --rm --mount type=bind,src=/nosuch2,dst=/x busybox true",
        "run --rm --mount type=nope,dst=/x busybox true",
        "volume create -o type=tmpfs -o device=tmpfs vt",
        "run --rm -v vt:/x busybox sh -c 'mount | grep \" /x \"'",
        "volume rm vt v1",
    ),
}


@contextmanager
def dockerd() -> Iterator[Docker]:
    """Docker's own engine with busybox, on a host of its own."""
    with engine_host() as host, scratch_directory() as directory:
        docker, log = Docker(Path(directory, "docker.sock")), Path(directory, "log")
        where = ["--data-root", f"{directory}/root", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"]
        limits = ["--default-ulimit", "nofile=20000:20000"]  # its own default is more than a container's root may have
        path = f"PATH={PROGRAMS}:{DOCKERD.parent}:/usr/sbin:/sbin:/usr/bin:/bin"
        process = host_spawn(host)(["env", path, str(DOCKERD), "-H", f"unix://{docker.socket}", *where, *limits], log)
        try:
            await_answer(docker, process, log)
            docker("load", stdin=busybox_tar())
            yield docker
            remove_all(docker)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Docker, Docker]]:
    """This engine's and Docker's own."""
    if missing := [str(program) for program in NEEDS if not program.exists()]:
        pytest.skip(f"needs {', '.join(missing)}: ./dev setup test")
    if subprocess.run(["test", "-d", "/sys/fs/cgroup/memory"], check=False).returncode:
        pytest.skip("what is compared reads control groups of version 1")
    with dockerd() as theirs, served_engine() as served:
        yield served.docker, theirs


def told(docker: Docker, lines: Sequence[str]) -> list[str]:
    """What every line comes to, in words that do not depend on when and where."""
    return [plain(docker.said(line)) for line in lines]


def plain(said: Said) -> str:
    text = f"[{said.code}]\n{said.out}{said.err}"
    for pattern, plainly in SINCE:
        text = re.sub(pattern, plainly, text)
    return re.sub(r"(Error response from daemon: )(\w)", lambda found: found[1] + found[2].lower(), text)


@pytest.mark.parametrize("case", CASES)
def test_a_user_sees_what_docker_shows(both: tuple[Docker, Docker], case: str) -> None:
    lines = CASES[case]
    with ThreadPoolExecutor(2) as threads:
        ours, theirs = threads.map(lambda docker: told(docker, lines), both)
    different = [
        f"$ docker {line}\n{ours}\nDocker: {theirs}"
        for line, ours, theirs in zip(lines, ours, theirs, strict=True)
        if ours != theirs
    ]
    assert not different, "\n\n".join(different)
