"""One data path measured: throughput, small packets, round trips, processor time; must not know what is compared with what."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from data_paths import DataPath, Underlay
from lab import LabError
from lab.demo.traffic import round_trips_s

SOURCES = Path(__file__).parent / "bench"
PROGRAMS = ("flood", "one_packet")
FRAME_BYTES = 1500 + 14
"""The largest frame that crosses in wire."""
ECHOES = 500
DISCARD_PORT = 9
DATAGRAM_BYTES = 64
SETTLE_S = 0.2
"""Until queues are as full as they get, and a program that has been started runs."""
AT_REST_CORES, LOOK_S = 0.1, 0.3
"""What a machine with nothing to do but daemons keeps busy, and how long it takes to see that."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure."""

    seconds: int
    """For each measurement that takes time."""
    programs: Path
    """Where `compile_programs` has put them."""
    congestion: str
    """TCP's congestion control: it decides how much of a path one stream can use."""
    patience_s: float
    """How long to wait before each round of a path for other programs to come to rest."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round found of one data path."""

    round: int
    underlay: Underlay
    path: str
    values: Mapping[str, float]
    """By name; units are in the names. `*_s_per_gb`: CPU seconds for a gigabyte of the one TCP stream. `others_cores`: what
    other programs kept busy just before."""


def compile_programs(directory: Path) -> None:
    """Make the benches' C programs there; raises LabError with the compiler's words."""
    for name in PROGRAMS:
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(directory / name), str(SOURCES / f"{name}.c")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{name}.c does not compile: {done.stderr}")


def measure(path: DataPath, underlay: Underlay, settings: Settings) -> dict[str, float]:
    """One of each measurement, one after the other; raises LabError, OSError, SubprocessError."""
    path.set_underlay(underlay)
    return {
        "others_cores": _rest(settings.patience_s),
        **_one_stream(path, underlay, settings),
        "tcp4_bits_per_s": _iperf3(path, settings, streams=4)["bits_per_second"],
        "datagrams_per_s": _datagrams_per_s(path, settings.seconds, settings.programs / "flood"),
        **_round_trips(path),
    }


def _rest(patience_s: float) -> float:
    """Wait for other programs to leave the processors alone, at most so long; returns how many they keep busy now."""
    until = time.monotonic() + patience_s
    while (busy := _busy_cores()) > AT_REST_CORES and time.monotonic() < until:
        pass
    return busy


def _busy_cores() -> float:
    before, start = machine_cpu_s(), time.monotonic()
    time.sleep(LOOK_S)
    return (machine_cpu_s() - before) / (time.monotonic() - start)


def _one_stream(path: DataPath, underlay: Underlay, settings: Settings) -> dict[str, float]:
    before = (sessions_cpu_s(path.daemons), machine_cpu_s(), _frames(path))
    stream = _iperf3(path, settings, streams=1)
    after = (sessions_cpu_s(path.daemons), machine_cpu_s(), _frames(path))
    daemons_s, machine_s, frames = (now - then for now, then in zip(after, before, strict=True))
    # Every frame but an acknowledgement is full on a wire; were packets crossing whole, there would be far fewer frames.
    if underlay is Underlay.WIRE and frames * FRAME_BYTES < stream["bytes"]:
        raise LabError(f"{path.name}: {frames} frames for {stream['bytes']:.0f} bytes, expected none above {FRAME_BYTES} bytes")
    gigabytes = stream["bytes"] / 1e9
    return {
        "tcp1_bits_per_s": stream["bits_per_second"],
        "daemons_s_per_gb": daemons_s / gigabytes,
        "machine_s_per_gb": machine_s / gigabytes,
    }


def _iperf3(path: DataPath, settings: Settings, streams: int) -> dict[str, float]:
    """What the receiver says of TCP: bytes, bits_per_second; raises LabError with iperf3's words, or when nothing arrives."""
    command = ["iperf3", "--json", "--client", str(path.ip), "--time", str(settings.seconds), "--parallel", str(streams)]
    command += ["--congestion", settings.congestion, "--connect-timeout", "3000"]
    report: dict[str, Any] = json.loads(path.source.run(command, check=False, timeout_s=settings.seconds + 20).stdout)
    received: dict[str, float] = report.get("end", {}).get("sum_received", {})
    if "error" in report or not received.get("bytes"):
        raise LabError(f"{path.name}: iperf3: {report.get('error', 'nothing arrives')}")
    return received


def sessions_cpu_s(leaders: Collection[int]) -> float:
    """User and system time so far of all processes in these sessions: a daemon and what it has started (proc_pid_stat(5))."""
    total = 0
    for entry in os.listdir("/proc") if leaders else ():
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) in leaders:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def machine_cpu_s() -> float:
    """What all processors have worked so far, for whomever (proc_stat(5): user, nice, system, interrupts)."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def _frames(path: DataPath) -> int:
    """How many the sender's host has put on the underlay so far."""
    (link,) = json.loads(path.lab.hosts[0].run(["ip", "-j", "-s", "link", "show", "eth0"]).stdout)
    return int(link["stats64"]["tx"]["packets"])


def _round_trips(path: DataPath) -> dict[str, float]:
    times = round_trips_s(path.source, path.ip, ECHOES)
    if len(times) < ECHOES * 0.99:
        raise LabError(f"{path.name}: {len(times)} of {ECHOES} echoes answered")
    return {"rtt_p50_s": median(times), "rtt_p99_s": times[len(times) * 99 // 100]}


def _datagrams_per_s(path: DataPath, seconds: int, flood: Path) -> float:
    """Have more sent than any path carries, and count what gets to a socket in the other pod, where nobody reads it."""
    with path.destination.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least: it is full at once, and the rest is counted
        sink.bind((str(path.ip), DISCARD_PORT))  # else every datagram is answered
        command = [str(flood), str(path.ip), str(DISCARD_PORT), str(DATAGRAM_BYTES), str(seconds + 2 * SETTLE_S)]
        flooding = path.source.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            time.sleep(SETTLE_S)
            before, start = path.destination.call(_arrived), time.monotonic()
            time.sleep(seconds)
            arrived, took = path.destination.call(_arrived) - before, time.monotonic() - start
            _, why = flooding.communicate(timeout=seconds + 20)
        finally:
            flooding.kill()
            flooding.wait()
    if flooding.returncode or not arrived:
        raise LabError(f"{path.name}: {why.strip() or 'no datagrams arrive'}")
    return arrived / took


def _arrived() -> int:
    """Datagrams that a socket in this network namespace has got, or had no room for; those in a merged packet one by one."""
    names, numbers = (
        line.split()[1:] for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    counted = dict(zip(names, map(int, numbers), strict=True))
    return counted["InDatagrams"] + counted["RcvbufErrors"]
