"""What containers cost engines: time from `run` to its end, many at once, memory; and what of a start is the engine's own.

Must not know engines' names. All times are in milliseconds, all sizes in MiB.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import LabError
from runtime_bench_rivals import IMAGE, TRUE, VENV, Rival, tartan

NETWORKS = ("none", "bridge")
CLIENT = "client"
SOURCE = Path(__file__).parent / "bench/no_runtime.c"
SLEEP = ("sleep", "1000000")
CONTAINERS = 10
"""That run while their helpers' memory is read."""


@dataclass(frozen=True)
class BareRunc:
    """runc by itself with what ours tells it: what no engine that has containers run by it can do without."""

    bundle: Path
    name: str = "runc"

    def run_ms(self) -> float:
        """From its start to its end; raises LabError."""
        options = ["--root", str(self.bundle / "state"), "--log", "/dev/null"]
        command = [str(VENV / "bin/runc"), *options, "run", "--bundle", str(self.bundle), f"bench-{os.getpid()}"]
        start = time.perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise LabError(f"runc: {done.stderr.decode(errors='replace').strip()}")
        return (time.perf_counter() - start) * 1e3


def in_turns(rivals: Sequence[Rival], alone: BareRunc, rounds: int) -> dict[str, dict[str, list[float]]]:
    """By network and name, `run --rm` of a container that does nothing: each in every round, another one first.

    CLIENT: a request of the docker client's that asks for next to nothing.
    """
    found: dict[str, dict[str, list[float]]] = {what: {} for what in (*NETWORKS, CLIENT)}
    for rival in rivals:
        for network in NETWORKS:
            rival.run_s(network)  # makes bridges, loads what is loaded once
    for number in range(rounds):
        for rival in (*rivals[number % len(rivals) :], *rivals[: number % len(rivals)]):
            for network in NETWORKS:
                found[network].setdefault(rival.name, []).append(rival.run_s(network) * 1e3)
        found["none"].setdefault(alone.name, []).append(alone.run_ms())
        found[CLIENT].setdefault(rivals[0].name, []).append(rivals[0].timed_s("ps") * 1e3)
    return found


def bare_runc(directory: Path, ours: Rival) -> BareRunc:
    """The bundle of a container of ours, fit to be run without an engine."""
    (directory / "rootfs").mkdir(parents=True)
    identity = ours.call("run", "--detach", "--network", "none", IMAGE, *SLEEP)
    ours.call("export", "--output", str(directory / "rootfs.tar"), identity)
    subprocess.run(["tar", "-xf", directory / "rootfs.tar", "-C", directory / "rootfs"], check=True)
    config: dict[str, Any] = json.loads(ours.host.call(Path(f"/run/tartan/containers/{identity}/config.json").read_text))
    ours.call("rm", "--force", identity)
    config["root"]["path"] = str(directory / "rootfs")
    config["process"]["args"] = list(TRUE)
    config["linux"]["cgroupsPath"] += "-alone"
    for namespace in config["linux"]["namespaces"]:
        namespace.pop("path", None)
    for mounted in config["mounts"]:
        if mounted["type"] == "bind":
            mounted["source"] = str(directory / "config.json")
    (directory / "config.json").write_text(json.dumps(config))
    return BareRunc(directory)


@dataclass
class Shares:
    """What requests take with a runtime that does nothing, by network."""

    create: dict[str, list[float]] = field(default_factory=dict)
    start: dict[str, list[float]] = field(default_factory=dict)


def own_shares(directory: Path, image: Path, rounds: int) -> Shares:
    """Measure them; raises LabError, CalledProcessError when there is no compiler."""
    directory.mkdir()
    stand_in, found = directory / "no_runtime", Shares()
    subprocess.run(["gcc", "-O2", "-static", "-o", stand_in, SOURCE], check=True)
    with tartan(directory / "engine", image, stand_in) as engine:
        for number in range(rounds + 1):
            for network in NETWORKS:
                identity, create_ms = created(engine, network)
                start = time.perf_counter()
                engine.ask("POST", f"/containers/{identity}/start")
                start_ms = (time.perf_counter() - start) * 1e3
                engine.ask("DELETE", f"/containers/{identity}?force=1")
                if number:  # the first loads what is loaded once
                    found.create.setdefault(network, []).append(create_ms)
                    found.start.setdefault(network, []).append(start_ms)
    return found


def created(rival: Rival, network: str) -> tuple[str, float]:
    """A container's id, and how long it took to make it."""
    wanted = {"Image": IMAGE, "Cmd": SLEEP, "HostConfig": {"NetworkMode": network}}
    start = time.perf_counter()
    identity: str = rival.ask("POST", "/containers/create", wanted)["Id"]
    return identity, (time.perf_counter() - start) * 1e3


def at_once_ms(rival: Rival, count: int) -> float:
    """How long so many starts take that are asked for at the same time, with bridge network; raises LabError when one fails."""
    made = [created(rival, "bridge")[0] for _ in range(count)]
    try:
        with ThreadPoolExecutor(count) as threads:
            start = time.perf_counter()
            list(threads.map(lambda identity: rival.ask("POST", f"/containers/{identity}/start"), made))
            return (time.perf_counter() - start) * 1e3
    finally:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda identity: rival.ask("DELETE", f"/containers/{identity}?force=1"), made))


@dataclass(frozen=True)
class Memory:
    """Of what serves containers, not of these."""

    engine_pss: float
    engine_rss: float
    container_pss: float
    """Of what each container has beside it."""
    container_rss: float


HELPERS = ("containerd-shim", "conmon", "tartan-monitor")


def memory(rival: Rival) -> Memory:
    """With containers that do nothing; without a daemon, the engine's is 0."""
    made = [rival.call("run", "--detach", "--network", "none", IMAGE, *SLEEP) for _ in range(CONTAINERS)]
    time.sleep(2)
    own = [pid for pid, name in _processes(rival) if pid == rival.daemon or name == "containerd"]
    helping = [pid for pid, name in _processes(rival) if name.startswith(HELPERS)]
    sizes = {what: [sum(_mib(pid, what) for pid in pids) for pids in (own, helping)] for what in ("Pss", "Rss")}
    rival.call("rm", "--force", *made)
    (pss, helpers_pss), (rss, helpers_rss) = sizes["Pss"], sizes["Rss"]
    return Memory(pss, rss, helpers_pss / CONTAINERS, helpers_rss / CONTAINERS)


def _processes(rival: Rival) -> list[tuple[int, str]]:
    """Those on its host, not in its containers."""
    home, found = rival.host.netns.path.stat().st_ino, []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "ns/net").stat().st_ino == home:
                found.append((int(entry.name), (entry / "cmdline").read_bytes().split(b"\0")[0].decode().rpartition("/")[2]))
    return found


def _mib(pid: int, what: str) -> float:
    lines: Mapping[str, str] = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(lines[what].split()[0]) / 1024
