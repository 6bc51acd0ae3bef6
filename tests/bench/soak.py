"""`./dev bench soak --minutes N`: faults drawn by a seed, over hosts whose pods ping each other, compared with a model.

After each fault the hosts get a while to be what etcd and config say they should be. What is not, is a wrong state: the run goes on
and prints it at the end, and exits with 1. So does an echo lost over a fault that breaks nothing packets need, and a daemon
that ended.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.datapath import WIDTH, machine
from flanneld_world import NETWORK, LabEtcd, World
from lab import LabError
from lab.lab import Lab
from lab.signals import leave_by_exception
from lab.topology import generate
from soak_faults import FAULTS, NOBODY, Soak, subnets_of
from soak_model import Place, wrong
from soak_pings import INTERVAL_S, LATE_S, Pinger
from traffic import await_peers

BOUND_S = 20.0
"""For a host to be as it should be; subnet.env is looked at every 5 s."""
SLOW_S = 1.0
"""What took longer is printed with what was waited for."""
UDP_LOSS_S = 0.1
"""What a restart, or a new pod network, may cost the udp backend."""


@dataclass
class Record:
    """What one kind of fault did, each time."""

    converged_s: list[float] = field(default_factory=list)
    outages_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Story:
    """One fault, as it went."""

    kind: str
    what: str
    began: float
    ended: float
    backend: str


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=30, show_default=True)
@click.option("--seed", type=int, help="[default: by the clock]")
@click.option("--hosts", type=click.IntRange(2, 20), default=5, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(FAULTS)), help="Draw from these kinds alone.")
def main(minutes: float, seed: int | None, hosts: int, only: tuple[str, ...]) -> None:
    """Run it; exit code 1 when anything was wrong."""
    leave_by_exception()
    seed = int(time.time()) if seed is None else seed
    print(f"soak: seed {seed}, {minutes:g} minutes, {hosts} hosts, {machine()}", flush=True)
    with soaking(hosts, random.Random(seed)) as soak:
        pods = {name: place.host.pod("p1") for name, place in soak.places.items()}
        memory = {name: one.rss_mib() for name, one in soak.daemons.items()}
        with Pinger(pods).running() as pinger:
            time.sleep(1)
            stories, records = inject(soak, pinger, time.monotonic() + minutes * 60, list(only) or list(FAULTS))
        failures = report(soak, stories, records, memory)
    sys.exit(1 if failures else 0)


@contextmanager
def soaking(hosts: int, rng: random.Random) -> Iterator[Soak]:
    """The hosts, ready, each knowing all others."""
    topology = replace(generate(hosts), network=NETWORK)
    with Lab.up(topology, name=f"soak{rng.randrange(1 << 20):x}", start_daemons=False) as lab:
        world = World(lab, LabEtcd(lab.fabric))
        places = {spec.name: Place(lab.host(spec.name), str(spec.addresses[0].ip)) for spec in topology.hosts}
        assert lab.etcd_process is not None
        soak = Soak(world, rng, {}, places, lab.etcd_process)
        try:
            for place in places.values():
                soak.start(place)
            for one in soak.daemons.values():
                await_peers(one.ready(), hosts - 1)
            soak.subnets = subnets_of(soak)
            assert NOBODY not in soak.subnets.values()
            yield soak
        finally:
            for process in (*(one.process for one in world.daemons), soak.etcd):
                process.kill()
                process.wait()


def inject(soak: Soak, pinger: Pinger, until: float, kinds: list[str]) -> tuple[list[Story], dict[str, Record]]:
    """One fault after the other, and now and then two at once, until that moment."""
    stories: list[Story] = []
    records = {kind: Record() for kind in kinds}
    while time.monotonic() < until:
        backend, began = soak.kind, time.monotonic()
        drawn = soak.rng.sample(kinds, 2 if soak.rng.random() < 0.15 and len(kinds) > 1 else 1)
        what = " + ".join(f"{kind} ({FAULTS[kind].do(soak)})" for kind in drawn)
        done = time.monotonic()
        found, last = converge(soak, done + BOUND_S)
        took = time.monotonic() - done
        time.sleep(LATE_S + 0.2)
        stories.append(Story(" + ".join(drawn), what, began, done + took + 0.2, backend))
        lost = pinger.lost_between(began, done + took + 0.2)
        outage = max(lost.values(), default=0.0)
        if len(drawn) == 1:
            records[drawn[0]].converged_s.append(took)
            records[drawn[0]].outages_s.append(outage)
        found += ended(soak)
        allowed = UDP_LOSS_S if "udp" in (backend, soak.kind) else 0.0
        if all(lossless(kind, backend) for kind in drawn) and outage > allowed:
            refused = pinger.refused_between(began, done + took + 0.2)
            found.append(f"echoes lost for up to {outage:.2f} s: {lost} {refused}")
        records[drawn[0]].wrong += [f"{len(stories)}: {what}, {backend}: {line}" for line in found]
        slow = f" (last: {last})" if took > SLOW_S else ""
        say = f"{len(stories):4} {backend:8} {what}: {took:.2f} s{slow}, outage {outage:.2f} s"
        print(say, f"WRONG {found}" if found else "", flush=True)
    return stories, records


def converge(soak: Soak, until: float) -> tuple[list[str], str]:
    """Wait until every host is as it should be; what is not when the time is over, and what was waited for last."""
    found: list[str] = []
    last = ""
    for place in soak.places.values():
        while present := looked(soak, place):
            if time.monotonic() > until:
                found += [f"{place.host.name}: {line}" for line in present]
                break
            last = f"{place.host.name}: {present[0]}"
            time.sleep(0.05)
    return found, last


def looked(soak: Soak, place: Place) -> list[str]:
    """What is wrong on the host; what cannot be looked at just now is wrong too."""
    try:
        return wrong(soak.world, place, soak.config, soak.subnets[place.host.name])
    except (LabError, OSError) as error:
        return [f"cannot be looked at: {error}"]


def lossless(kind: str, backend: str) -> bool:
    """True if no echo may be lost over it: a udp daemon that is stopped carries nothing, and what waits too long is lost."""
    return FAULTS[kind].lossless and not (backend == "udp" and kind == "daemon stopped for a while")


def ended(soak: Soak) -> list[str]:
    """Daemons that ended by themselves; they are started again."""
    found = []
    for name, one in list(soak.daemons.items()):
        if one.process.poll() is not None:
            found.append(f"{name}: flanneld ended with exit code {one.process.returncode}: {one.lines()[-1]}")
            soak.start(soak.places[name])
            soak.daemons[name].await_said("ready")
    return found


def report(soak: Soak, stories: list[Story], records: dict[str, Record], memory: dict[str, float]) -> int:
    """Print what was seen; returns how much was wrong."""
    table = Table("fault", "times", "converged s (median, max)", "longest outage s", "may lose", "wrong", box=box.SIMPLE)
    for kind, record in records.items():
        if not record.converged_s and not record.wrong:
            continue
        times = record.converged_s or [0.0]
        worst = max(record.outages_s, default=0.0)
        lossy = "" if FAULTS[kind].lossless else "yes"
        table.add_row(
            kind,
            str(len(record.converged_s)),
            f"{median(times):.2f}  {max(times):.2f}",
            f"{worst:.2f}",
            lossy,
            str(len(record.wrong)),
        )
    console = Console(width=WIDTH)
    console.print(table)
    failures = [line for record in records.values() for line in record.wrong]
    for line in failures:
        print(f"WRONG {line}")
    after = {name: one.rss_mib() for name, one in soak.daemons.items()}
    lines = sum(len(one.lines()) for one in soak.world.daemons)
    together = sum(" + " in story.kind for story in stories)
    print(
        f"{len(stories)} faults ({together} of them two at once), {len(failures)} wrong states; "
        f"echoes every {INTERVAL_S * 1000:.0f} ms; "
        f"log lines {lines}; memory of the daemons {max(memory.values()):.0f} -> {max(after.values()):.0f} MiB"
    )
    return len(failures)


if __name__ == "__main__":
    main()
