"""CNI plugins called as a runtime calls them, and timed: posix_spawn, environment, standard input, wait4; for benchmarks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import LabError

NETNS = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Plugins:
    """A pod's chain, and where its executables are."""

    name: str
    directory: Path
    chain: tuple[Mapping[str, Any], ...]
    """Configurations in the order of ADD."""
    daemon: int = 0
    """Process that does the work; 0: each call does its own."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What some calls took."""

    wall_s: float = 0.0
    client_s: float = 0.0
    """CPU of the executables and all they ran."""
    daemon_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        return self.client_s + self.daemon_s


def add(plugins: Plugins, pod: str, port: int = 0) -> Spent:
    """The whole chain forward, each with the result of the one before; raises LabError with a plugin's own words."""
    return _run(plugins, "ADD", pod, port, plugins.chain)


def delete(plugins: Plugins, pod: str, port: int = 0) -> Spent:
    """The whole chain backward."""
    return _run(plugins, "DEL", pod, port, plugins.chain[::-1])


def status(plugins: Plugins) -> Spent:
    """Of the first plugin that a pod gets its address from."""
    conf = next(conf for conf in plugins.chain if conf["type"] not in ("loopback", "portmap"))
    return _run(plugins, "STATUS", "", 0, [{**conf, "cniVersion": "1.1.0"}])


def _run(plugins: Plugins, command: str, pod: str, port: int, chain: Sequence[Mapping[str, Any]]) -> Spent:
    before, start = daemon_cpu_s(plugins.daemon), time.perf_counter()
    result: Any = None
    client_s = 0.0
    for conf in chain:
        mappings = [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}] if port and conf["type"] == "portmap" else []
        told = {**conf} | ({"runtimeConfig": {"portMappings": mappings}} if mappings else {})
        if result is not None and conf["type"] != "loopback":
            told["prevResult"] = result
        printed, cpu_s = _call(plugins.directory / conf["type"], command, pod, told)
        client_s += cpu_s
        if command == "ADD" and conf["type"] != "loopback":
            result = json.loads(printed)
    wall_s = time.perf_counter() - start
    return Spent(wall_s, client_s, daemon_cpu_s(plugins.daemon) - before)


def _call(program: Path, command: str, pod: str, conf: Mapping[str, Any]) -> tuple[bytes, float]:
    """What it printed, and the CPU seconds of it and its children."""
    stdin, told = os.pipe()
    output, stdout = os.pipe()
    os.write(told, json.dumps(conf).encode())  # less than a pipe holds
    os.close(told)
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod,
        "CNI_NETNS": str(NETNS / pod),
        "CNI_IFNAME": "lo" if conf["type"] == "loopback" else "eth0",
        "CNI_PATH": str(program.parent),
        "PATH": os.environ["PATH"],
    }
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    pid = os.posix_spawn(program, [str(program)], environment, file_actions=actions)
    os.close(stdin)
    os.close(stdout)
    with open(output, "rb") as file:
        printed = file.read()
    _, ended, usage = os.wait4(pid, 0)
    if ended:
        raise LabError(f"{program} {command} of {pod}: {printed.decode(errors='replace')}")
    return printed, usage.ru_utime + usage.ru_stime


def daemon_cpu_s(pid: int) -> float:
    """CPU of all its threads so far, to the microsecond (proc_pid_schedstat: nanoseconds on a processor)."""
    if not pid:
        return 0.0
    return sum(_first_number(task / "schedstat") for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def _first_number(file: Path) -> int:
    try:
        return int(file.read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):  # a thread that has ended
        return 0


def rss_mib(pid: int) -> float:
    """What it has in memory."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def quantile(values: Iterable[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
