"""Container engines as `./dev bench runtime` compares them, each on a host of its own; must not know what is measured.

All keep their files on the same disk, under the directory that they are given, and run containers by the same runc.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from host_traces import end_cgroup
from lab import LabError
from runtime_images import Directory, Link, image_tar
from runtime_nets import EngineHost, engine_host

VENV = Path(sys.executable).parent.parent
DOCKERS = VENV / "lib/docker"
IMAGE = "busybox:latest"
TRUE = ("true",)
START_S = 60.0
PATH = f"{VENV}/bin:{DOCKERS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Rival:
    """Something that runs containers."""

    name: str
    host: EngineHost
    command: Sequence[str]
    """What `run ..` is appended to."""
    environment: Mapping[str, str]
    socket: Path | None = None
    """Where it speaks Docker's API."""
    daemon: int = 0
    """Its process; its own children belong to it."""

    def run_s(self, network: str) -> float:
        """Seconds that `run --rm` of a container that does nothing takes; raises LabError."""
        return self.timed_s("run", "--rm", "--network", network, IMAGE, *TRUE)

    def timed_s(self, *arguments: str) -> float:
        """Seconds that a command takes; raises LabError."""
        return self.host.call(self._timed, arguments)

    def call(self, *arguments: str) -> str:
        """What one command prints; raises LabError."""
        return self.host.call(self._called, arguments)

    def _timed(self, arguments: Sequence[str]) -> float:
        start = time.perf_counter()
        self._called(arguments)
        return time.perf_counter() - start

    def _called(self, arguments: Sequence[str]) -> str:
        done = subprocess.run([*self.command, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{self.name}: {' '.join(arguments[:4])}: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request to its API on a connection of its own; raises LabError for an answer that is no success."""
        connection = _UnixConnection(str(self.socket))
        try:
            data = b"" if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            told = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise LabError(f"{self.name}: {method} {path}: {told.decode(errors='replace').strip()}")
        return json.loads(told) if told else None


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=START_S)
        self._path = path

    def connect(self) -> None:
        """To the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


@contextmanager
def tartan(directory: Path, image: Path, runtime: Path | None = None) -> Iterator[Rival]:
    """Ours, with CRI served; `runtime`: instead of runc."""
    serve = ["-m", "tartan", "runtime", "serve", "--root", str(directory / "root"), "--run", "/run/tartan"]
    options = ["--socket", str(directory / "sock"), "--cni-conf-dir", str(directory / "net.d")]
    command = [sys.executable, *serve, *options, *(["--runc", str(runtime)] if runtime else [])]
    with engine_host() as host, _daemon(host, "tartan", directory, command) as rival:
        rival.call("load", "--input", str(image))
        yield rival


@contextmanager
def dockerd(directory: Path, image: Path) -> Iterator[Rival]:
    """Debian's, with its own containerd."""
    group = f"bench-{os.getpid()}"
    places = ["--data-root", str(directory / "data"), "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"]
    options = ["--storage-driver", "overlay2", "--oom-score-adjust", "0", "--cgroup-parent", f"/{group}"]
    command = [str(DOCKERS / "dockerd"), *places, *options, "--host", f"unix://{directory / 'sock'}"]
    try:
        with engine_host() as host, _daemon(host, "dockerd", directory, command) as rival:
            rival.call("load", "--input", str(image))
            yield rival
    finally:
        end_cgroup(group)


@contextmanager
def _daemon(host: EngineHost, name: str, directory: Path, command: Sequence[str]) -> Iterator[Rival]:
    """One that speaks Docker's API at `sock`, called by docker's own client."""
    directory.mkdir()
    place, log = directory / "sock", directory / "log"
    environment = {"PATH": PATH, "HOME": str(directory), "DOCKER_HOST": f"unix://{place}"}
    with log.open("wb") as output:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        daemon = host.call(start)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(place):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"{name} does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        yield Rival(name, host, ["docker"], environment, place, daemon.pid)
    finally:
        daemon.terminate()
        daemon.wait(START_S)


def _answers(place: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
        return True
    return False


@contextmanager
def podman(directory: Path, image: Path) -> Iterator[Rival]:
    """Debian's, with overlay, runc, conmon and CNI plugins."""
    directory.mkdir()
    for name, text in _podman_files(directory).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    variables = {
        "CONTAINERS_CONF": "containers.conf",
        "CONTAINERS_STORAGE_CONF": "storage.conf",
        "CONTAINERS_REGISTRIES_CONF": "registries.conf",
    }
    environment = {name: str(directory / file) for name, file in variables.items()} | {"PATH": PATH, "HOME": str(directory)}
    try:
        with engine_host() as host:
            rival = Rival("podman", host, ["podman"], environment)
            rival.call("load", "--input", str(image))
            yield rival
            rival.call("rm", "--all", "--force", "--time=0")
    finally:
        end_cgroup("libpod_parent")


def _podman_files(directory: Path) -> dict[str, str]:
    return {
        "containers.conf": f"""\
[containers]
apparmor_profile = "unconfined"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
conmon_path = ["{VENV}/bin/conmon"]
events_logger = "file"
lock_type = "file"
runtime = "runc"
tmp_dir = "/run/libpod"
[engine.runtimes]
runc = ["{VENV}/bin/runc"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["{VENV}/lib/cni"]
network_config_dir = "{directory}/net.d"
""",
        "storage.conf": f"""\
[storage]
driver = "overlay"
graphroot = "{directory}/storage"
runroot = "/run/containers/storage"
""",
        "registries.conf": 'unqualified-search-registries = ["localhost"]\n',
        ".config/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
    }


def write_image(archive: Path) -> None:
    """Busybox with its commands, as `docker save` writes it."""
    program = VENV / "bin/busybox"
    names = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    files: dict[str, bytes | Link | Directory] = {
        **{name: Directory() for name in ("bin", "dev", "etc", "proc", "sys")},
        "bin/busybox": program.read_bytes(),
        "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
        **{f"bin/{name}": Link("busybox") for name in names if name != "busybox"},
    }
    archive.write_bytes(image_tar([files], [IMAGE], config={"Cmd": ["sh"], "Env": ["PATH=/bin"]}))


def rivals() -> dict[str, Callable[[Path, Path], Any]]:
    """By name, those of them whose programs are here."""
    known: dict[str, tuple[Callable[[Path, Path], Any], Path]] = {
        "tartan": (tartan, VENV / "bin/runc"),
        "podman": (podman, VENV / "bin/podman"),
        "dockerd": (dockerd, DOCKERS / "dockerd"),
    }
    return {name: make for name, (make, program) in known.items() if program.exists()}
