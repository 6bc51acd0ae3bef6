"""`./dev bench cni`: a pod's ADD and DEL by our plugins and by Debian's containernetworking-plugins, in turns on one lab host.

A pod is what containerd asks for: loopback, then the pod's chain with one host port. Ours run in the host's flanneld.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from statistics import median

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.datapath import WIDTH, machine
from cni_calls import NETNS, Plugins, Spent, add, delete, quantile, rss_mib, status
from cni_world import REFERENCE_DIRECTORY
from flanneld import FlanneldError
from flanneld.linux import netns
from flanneld.linux.links import links
from flanneld.linux.netlink import Netlink
from lab import LabError
from lab.lab import Lab
from lab.pods import CNI_BIN
from lab.signals import leave_by_exception
from lab.topology import generate

LOOPBACK = {"name": "cni-loopback", "cniVersion": "0.3.1", "type": "loopback"}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
FLANNEL = {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}}
BRIDGE = {
    "type": "bridge",
    "bridge": "ref0",
    "isGateway": True,
    "isDefaultGateway": True,
    "hairpinMode": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]]},
}
TARGETS = "targets: ADD 6 ms, CPU 4 ms; DEL 4 ms, links gone in 100 ms; 100 ADDs at once 0.3 s; 45 MiB with 250 pods; STATUS 1 ms"
MANY, PODS = 100, 250
ports = count(20_000)


def chain(network: str, pod: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    """What is called for a pod, in order."""
    own = {"name": network, "cniVersion": "1.0.0"}
    return (LOOPBACK, {**pod, **own}, {**PORTMAP, **own})


@contextmanager
def pods(count_: int) -> Iterator[list[str]]:
    """Network namespaces, as a runtime has them ready."""
    names = [f"bench-{number}" for number in range(count_)]
    NETNS.mkdir(exist_ok=True)
    try:
        for name in names:
            netns.create(NETNS / name)
        yield names
    finally:
        for name in names:
            netns.delete(NETNS / name)


def in_turns(sets: Sequence[Plugins], rounds: int) -> dict[str, list[tuple[Spent, Spent, float]]]:
    """ADD, DEL, and the seconds from DEL's end until the host's link is gone: of each set in every round, another one first."""
    found: dict[str, list[tuple[Spent, Spent, float]]] = {each.name: [] for each in sets}
    with pods(len(sets)) as names:  # the first pod makes bridges and tables, and loads what is needed
        for each, pod in zip(sets, names, strict=True):
            add(each, pod, port := next(ports))
            delete(each, pod, port)
    with pods(rounds * len(sets)) as names:  # beforehand, gone after: the kernel is long at it, with its one lock on networks
        free = iter(names)
        for number in range(rounds):
            for each in (*sets[number % len(sets) :], *sets[: number % len(sets)]):
                pod, port, before = next(free), next(ports), _links()
                added = add(each, pod, port)
                deleted = delete(each, pod, port)
                found[each.name].append((added, deleted, _until_gone(before)))
    return found


def _links() -> set[str]:
    with Netlink() as nl:
        return {link.name for link in links(nl) if link.kind == "veth"}


def _until_gone(before: set[str]) -> float:
    start = time.perf_counter()
    while _links() - before:
        time.sleep(0.001)
    return time.perf_counter() - start


def at_once(plugins: Plugins) -> float:
    """Seconds for MANY pods whose ADDs begin together; then all are deleted. Raises LabError for an address given twice."""
    plugins = replace(plugins, daemon=0)  # whose clock would take longer to read than a pod to make
    with pods(MANY) as names, ThreadPoolExecutor(MANY) as threads:
        given = {name: next(ports) for name in names}
        start = time.perf_counter()
        list(threads.map(lambda name: add(plugins, name, given[name]), names))
        took = time.perf_counter() - start
        addresses = [netns.run_in(NETNS / name, _address) for name in names]
        if len(set(addresses)) != MANY:
            raise LabError(f"{plugins.name}: {MANY} pods have {len(set(addresses))} addresses")
        list(threads.map(lambda name: delete(plugins, name, given[name]), names))
    return took


def _address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # sends nothing
        return str(sock.getsockname()[0])


def memory(plugins: Plugins, soak: int) -> dict[str, float]:
    """MiB of the daemon, with PODS pods, and before and after so many ADDs and DELs more."""
    found = {"no pods": rss_mib(plugins.daemon)}
    with pods(PODS) as names:
        for name in names:
            add(plugins, name, next(ports))
        found[f"{PODS} pods"] = rss_mib(plugins.daemon)
        for name in names:
            delete(plugins, name)
    with pods(10) as names:
        for number in range(soak // 20):
            for name in names:
                add(plugins, name, 10_000)
                delete(plugins, name, 10_000)
            if number == 0:
                found["before the soak"] = rss_mib(plugins.daemon)
    return found | ({f"after {soak} ADDs and DELs": rss_mib(plugins.daemon)} if soak else {})


def table(found: dict[str, list[tuple[Spent, Spent, float]]]) -> Table:
    """Medians and 95th percentiles in milliseconds, and ours to the reference's, round by round."""
    made = Table(title="one pod: loopback, address and link, one host port", title_justify="left", box=box.SIMPLE)
    for heading in ("ms", *found, "ratio"):
        made.add_column(heading, justify="right" if heading != "ms" else "left")
    rows: dict[str, Callable[[tuple[Spent, Spent, float]], float]] = {
        "ADD": lambda each: each[0].wall_s,
        "ADD, CPU": lambda each: each[0].cpu_s,
        "of it the executables": lambda each: each[0].client_s,
        "DEL": lambda each: each[1].wall_s,
        "DEL, CPU": lambda each: each[1].cpu_s,
        "until the link is gone": lambda each: each[1].wall_s + each[2],
    }
    for title, pick in rows.items():
        values = [[pick(each) * 1e3 for each in samples] for samples in found.values()]
        cells = [f"{median(column):.2f} (p95 {quantile(column, 0.95):.1f})" for column in values]
        ratio = median(ours / max(theirs, 1e-9) for ours, theirs in zip(*values, strict=True)) if len(values) == 2 else 0.0
        made.add_row(title, *cells, f"{ratio:.2f}")
    return made


def measure(daemon: int, rounds: int, soak: int, console: Console) -> None:
    """All of it, on the host, printed as it is found."""
    ours = Plugins("tartan", CNI_BIN, chain("cbr0", FLANNEL), daemon)
    sets = [ours, Plugins("reference", REFERENCE_DIRECTORY, chain("ref", BRIDGE))]
    sets = [each for each in sets if (each.directory / "bridge").exists()]
    console.print(table(in_turns(sets, rounds)))
    for each in sets:
        took = [at_once(each) for _ in range(3)]
        console.print(f"{MANY} ADDs at once, {each.name}: {median(took):.2f} s ({', '.join(f'{one:.2f}' for one in took)})")
    asked = [status(ours).wall_s * 1e3 for _ in range(100)]
    console.print(f"STATUS: {median(asked):.2f} ms (p95 {quantile(asked, 0.95):.2f})")
    for when, mib in memory(ours, soak).items():
        console.print(f"flanneld's memory, {when}: {mib:.1f} MiB")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=2), default=40, show_default=True)
@click.option("--soak", type=click.IntRange(min=0), default=0, help="So many more ADDs and DELs: does memory grow?")
def main(rounds: int, soak: int) -> None:
    """Measure a pod's ADD and DEL; print medians, with ratios to the reference's plugins."""
    leave_by_exception()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()))
    console.print(TARGETS)
    try:
        with Lab.up(generate(1), name=f"bench-{os.getpid()}", start_daemons=False) as lab:
            (host,) = lab.hosts
            daemon = lab.start_flanneld(host)
            lab.await_ready(host, daemon)
            host.call(measure, daemon.pid, rounds, soak, console)
    except (LabError, FlanneldError, OSError, json.JSONDecodeError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main(prog_name="./dev bench cni")
