"""`./dev bench datapath`: every backend's throughput, small-packet rate and round trip, against plain routing in the same run.

All data paths are up at once and take turns in every round, so that what else the machine does falls on all of them; a ratio is the
median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, TextIO

import click
from rich import box
from rich.console import Console
from rich.table import Table

from data_paths import HAND_VXLAN, PATHS, PLAIN, DataPath, Underlay, open_path
from flanneld import FlanneldError
from lab import LabError
from lab.demo.traffic import round_trips_s
from lab.signals import leave_by_exception

RULES = "by hand: one rule that masquerades; flanneld: its defaults and --ip-masq"
MEANING = {
    Underlay.SOFT: "packets of up to 64 KB cross the underlay whole, as between containers and virtual machines of one host",
    Underlay.WIRE: "packets of the underlay's MTU cross it: cut before and merged after by software, as behind a plain NIC",
}
FRAME_BYTES = 1500 + 14
"""The largest frame that crosses in wire."""
ECHOES = 500
DISCARD_PORT = 9
WIDTH = 120
"""Characters, where there is no terminal to ask."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the table."""

    heading: str
    show: Callable[[float], str]


METRICS = {
    "tcp1_bits_per_s": Metric("TCP Gbit/s", lambda bits_per_s: f"{bits_per_s / 1e9:.2f}"),
    "tcp4_bits_per_s": Metric("4 TCP Gbit/s", lambda bits_per_s: f"{bits_per_s / 1e9:.2f}"),
    "datagrams_per_s": Metric("64 B UDP k/s", lambda per_s: f"{per_s / 1e3:.0f}"),
    "rtt_p50_s": Metric("RTT us", lambda seconds: f"{seconds * 1e6:.0f}"),
    "rtt_p99_s": Metric("p99 us", lambda seconds: f"{seconds * 1e6:.0f}"),
}
CPU = "daemons_s_per_gb"
"""CPU seconds of both hosts' flanneld for a gigabyte of the one TCP stream."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round found of one data path; by name: those of METRICS, and CPU."""

    underlay: Underlay
    path: str
    values: Mapping[str, float]


def measure(path: DataPath, underlay: Underlay, seconds: int) -> Sample:
    """One of each measurement, one after the other."""
    path.set_underlay(underlay)
    values = {
        **_one_stream(path, underlay, seconds),
        "tcp4_bits_per_s": _iperf3(path, seconds, "-P", "4")["bits_per_second"],
        "datagrams_per_s": _datagrams_per_s(path, seconds),
        **_round_trips(path),
    }
    return Sample(underlay, path.name, values)


def _one_stream(path: DataPath, underlay: Underlay, seconds: int) -> dict[str, float]:
    cpu_s, frames = _cpu_s(path.daemons), _frames(path)
    stream = _iperf3(path, seconds)
    cpu_s, frames = _cpu_s(path.daemons) - cpu_s, _frames(path) - frames
    # Every frame but an acknowledgement is full on a wire; were packets crossing whole, there would be far fewer frames.
    if underlay is Underlay.WIRE and frames * FRAME_BYTES < stream["bytes"]:
        raise LabError(f"{path.name}: {frames} frames for {stream['bytes']:.0f} bytes, expected none above {FRAME_BYTES} bytes")
    return {"tcp1_bits_per_s": stream["bits_per_second"], CPU: cpu_s / stream["bytes"] * 1e9}


def _iperf3(path: DataPath, seconds: int, *options: str) -> dict[str, float]:
    """What the receiver says of TCP: bytes, bits_per_second."""
    command = ["iperf3", "--json", "--client", str(path.ip), "--time", str(seconds), *options]
    report: dict[str, Any] = json.loads(path.source.run(command).stdout)
    received: dict[str, float] = report["end"]["sum_received"]
    return received


def _cpu_s(pids: Iterable[int]) -> float:
    """User and system time of these processes so far (proc_pid_stat(5): fields 14 and 15)."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def _frames(path: DataPath) -> int:
    """How many the sender's host has put on the underlay so far."""
    (link,) = json.loads(path.lab.hosts[0].run(["ip", "-j", "-s", "link", "show", "eth0"]).stdout)
    return int(link["stats64"]["tx"]["packets"])


def _round_trips(path: DataPath) -> dict[str, float]:
    times = round_trips_s(path.source, path.ip, ECHOES)
    if len(times) < ECHOES * 0.99:
        raise LabError(f"{path.name}: {len(times)} of {ECHOES} echoes answered")
    return {"rtt_p50_s": median(times), "rtt_p99_s": times[len(times) * 99 // 100]}


def _datagrams_per_s(path: DataPath, seconds: int) -> float:
    """Send as fast as one thread can, and count what comes out in the other pod, where nobody reads it."""
    with path.destination.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((str(path.ip), DISCARD_PORT))  # else every datagram is answered
        before, start = path.destination.call(_received), time.monotonic()
        path.source.call(_flood, str(path.ip), seconds)
        return (path.destination.call(_received) - before) / (time.monotonic() - start)


def _flood(ip: str, seconds: int) -> None:
    datagram = bytes(64)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((ip, DISCARD_PORT))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(100):
                sock.send(datagram)


def _received() -> int:
    """Packets that this network namespace's eth0 has had so far."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return next(int(line.split()[2]) for line in lines if line.lstrip().startswith("eth0:"))


def measure_all(rounds: int, seconds: int, underlays: Sequence[Underlay], progress: Console) -> list[Sample]:
    """Bring all data paths up, measure them in turn, another one first in each round, and take them away."""
    samples: list[Sample] = []
    with ExitStack() as stack:
        paths = [open_path(name, stack) for name in PATHS]
        for number in range(rounds):
            first = number % len(paths)
            for underlay, path in product(underlays, paths[first:] + paths[:first]):
                progress.print(f"round {number + 1} of {rounds}: {underlay}, {path.name}")
                samples.append(measure(path, underlay, seconds))
    return samples


def table(samples: Sequence[Sample], underlay: Underlay) -> Table:
    """Medians, and in brackets the ratio to plain routing."""
    made = Table(title=f"{underlay}: {MEANING[underlay]}", title_justify="left", box=box.SIMPLE)
    made.add_column()
    for heading in (*(metric.heading for metric in METRICS.values()), "daemons s/GB"):
        made.add_column(heading, justify="right")
    found = {path: [s.values for s in samples if (s.underlay, s.path) == (underlay, path)] for path in PATHS}
    for path, values in found.items():
        medians = {name: median(value[name] for value in values) for name in (*METRICS, CPU)}
        cells = [f"{metric.show(medians[name])} {_ratio(name, values, found[PLAIN])}" for name, metric in METRICS.items()]
        made.add_row(path, *cells, f"{medians[CPU]:.2f}")
    made.add_row("vxlan to vxlan by hand", *(_ratio(name, found["vxlan"], found[HAND_VXLAN]) for name in METRICS))
    return made


def _ratio(name: str, values: Sequence[Mapping[str, float]], references: Sequence[Mapping[str, float]]) -> str:
    return f"({median(value[name] / reference[name] for value, reference in zip(values, references, strict=True)):.2f})"


def machine() -> dict[str, str | int]:
    """What the figures depend on besides us; `load`: how many processes wanted a core in the minute before."""
    iperf3 = subprocess.run(["iperf3", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {
        "kernel": platform.release(),
        "cores": os.cpu_count() or 0,
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "iperf3": iperf3,
        "tcp": congestion,
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=click.IntRange(min=1), default=2, show_default=True, help="For each of the three that take time.")
@click.option("--soft", is_flag=True, help="The underlay that takes packets of 64 KB; without --soft and --wire, both.")
@click.option("--wire", is_flag=True, help="The underlay that takes packets of its MTU.")
@click.option("--json", "file", type=click.File("w", lazy=False), help="Write every sample to this file.")
def main(rounds: int, seconds: int, soft: bool, wire: bool, file: TextIO | None) -> None:
    """Measure all data paths; print medians, with ratios to plain routing."""
    leave_by_exception()
    underlays = [underlay for underlay, given in zip(Underlay, (soft, wire), strict=True) if given or soft == wire]
    about = {**machine(), "rounds": rounds, "seconds": seconds}
    try:
        samples = measure_all(rounds, seconds, underlays, Console(stderr=True, highlight=False))
    except (LabError, FlanneldError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"bench: {error}")
    if file is not None:
        json.dump({**about, "samples": [asdict(sample) for sample in samples]}, file, indent=1)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    console.print(RULES)
    for underlay in underlays:
        console.print(table(samples, underlay))


if __name__ == "__main__":
    main(prog_name="./dev bench datapath")
