"""`./dev bench soak --minutes N`: faults drawn by a seed, over hosts whose pods ping each other, compared with a model.

After each fault the hosts get a while to be what etcd and config say they should be. What is not, is a wrong state: the run goes on
and prints it at the end, and exits with 1. So does an echo lost over a fault that breaks nothing packets need, a host
that is wrong again after it was right, and a daemon that ended.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import click

from bench.datapath import machine
from flanneld_world import NETWORK, LabEtcd, World
from lab.lab import Lab
from lab.logs import last_lines
from lab.signals import leave_by_exception
from lab.topology import generate
from soak_etcd_faults import FIRST, NOBODY, save_snapshot
from soak_faults import FAULTS
from soak_look import Place, furnish
from soak_pings import LATE_S, Pinger
from soak_report import Run, Story, excerpt, print_report
from soak_state import Convergence, Soak
from traffic import await_peers

SLOW_S = 1.0
"""What took longer is printed with what was waited for."""
UDP_LOSS_S = 0.1
"""What a restart, or a new pod network, may cost the udp backend."""
TWO, THREE = 0.2, 0.04
"""How often that many faults come together."""
NEEDS_DAEMON = ("kill -9 and restart", "SIGTERM and restart", "daemon stopped for a while")
"""These stop udp's packets, which only the daemon carries."""


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=30, show_default=True)
@click.option("--seed", type=int, help="[default: by the clock]")
@click.option("--hosts", type=click.IntRange(2, 20), default=5, show_default=True)
@click.option("--backend", type=click.Choice(["vxlan", "host-gw", "udp"]), help="Stay with it.  [default: exchange them too]")
@click.option("--only", multiple=True, type=click.Choice(list(FAULTS)), help="Draw from these kinds alone.")
@click.option("--without", multiple=True, type=click.Choice(list(FAULTS)), help="Draw none of these kinds.")
def main(
    minutes: float, seed: int | None, hosts: int, backend: str | None, only: tuple[str, ...], without: tuple[str, ...]
) -> None:
    """Run it; exit code 1 when anything was wrong."""
    leave_by_exception()
    seed = int(time.time()) if seed is None else seed
    print(f"soak: seed {seed}, {minutes:g} minutes, {hosts} hosts, {backend or 'all backends'}, {machine()}", flush=True)
    kinds = [kind for kind in only or FAULTS if kind not in without and not (backend and FAULTS[kind].exchanges)]
    with soaking(hosts, backend or "vxlan", random.Random(seed)) as soak, Pinger(soak.pods).running() as pinger:
        time.sleep(1)
        run = Run(soak, seed)
        while time.monotonic() < run.began + minutes * 60:
            inject(run, pinger, draw(soak, kinds))
        print_report(run)
    sys.exit(1 if run.wrong() else 0)


@contextmanager
def soaking(hosts: int, backend: str, rng: random.Random) -> Iterator[Soak]:
    """The hosts, ready, each knowing all others, with a pod each."""
    network = {**NETWORK, "Backend": {"Type": backend}}
    topology = replace(generate(hosts), network=network)
    with Lab.up(topology, name=f"soak{rng.randrange(1 << 20):x}", start_daemons=False) as lab:
        places = {spec.name: Place(lab.host(spec.name), str(spec.addresses[0].ip)) for spec in topology.hosts}
        assert lab.etcd_process is not None
        soak = Soak(World(lab, LabEtcd(lab.fabric)), rng, {}, places, lab.etcd_process, config=network)
        try:
            for place in places.values():
                furnish(place.host)
                soak.start(place)
            for one in soak.daemons.values():
                await_peers(one.ready(), hosts - 1)
            soak.learn_subnets()
            assert not {*NOBODY} & {*soak.subnets.values()}
            save_snapshot(soak, FIRST)
            soak.pods = {name: place.host.pod("p1") for name, place in places.items()}
            yield soak
        finally:
            for process in (*(one.process for one in soak.world.daemons), soak.etcd):
                process.kill()
                process.wait()


def draw(soak: Soak, kinds: list[str]) -> list[str]:
    """One kind, and now and then several."""
    chance = soak.rng.random()
    many = 3 if chance < THREE else 2 if chance < THREE + TWO else 1
    suitable = [kind for kind in kinds if soak.kind in FAULTS[kind].backends]
    drawn = soak.rng.sample(suitable, min(many, len(suitable)))
    if len(drawn) > 1 and any(FAULTS[kind].exchanges for kind in drawn):  # what the others need may be gone then
        drawn = [kind for kind in drawn if len(FAULTS[kind].backends) == len(FAULTS["etcd hangs"].backends)] or drawn[:1]
    return drawn


def inject(run: Run, pinger: Pinger, drawn: list[str]) -> None:
    """Have these faults happen, wait until all is well, and write down what was not."""
    soak = run.soak
    backend, began, soak.stages, soak.found = soak.kind, time.monotonic(), [], []
    soak.backends = {backend}
    what, nested = happen(soak, drawn)
    last = soak.converge()
    settled = time.monotonic()
    time.sleep(LATE_S + 0.2)
    wrong = last.wrong or soak.wrong_now()
    found = soak.found + wrong
    found += ended(run)
    outages = pinger.lost_between(began, settled + 0.2)
    outage = max(outages.values(), default=0.0)
    if outage > may_lose_s(drawn, soak.backends, nested):
        found.append(f"echoes lost: {outages} {pinger.refused_between(began, settled + 0.2)}")
    run.stories.append(Story(drawn, what, backend, found))
    write_down(run, drawn, [*soak.stages, last], outage)
    slowest = max([*soak.stages, last], key=lambda stage: stage.took_s)
    slow = f" (last: {slowest.last})" if slowest.took_s > SLOW_S else ""
    print(f"{len(run.stories):4} {backend:8} {what}: {slowest.took_s:.2f} s{slow}, outage {outage:.2f} s", flush=True)
    for line in excerpt(found):
        print(f"     WRONG {line}", flush=True)
    if wrong:
        soak.mend()
        save_snapshot(soak, FIRST)  # what was published before is forgotten with the daemons' memory


def happen(soak: Soak, drawn: list[str]) -> tuple[str, bool]:
    """What was done, in words; whether some came in the middle of others. Those that need no etcd come within one that lasts."""
    outer = next((kind for kind in drawn if FAULTS[kind].lasts), "")
    inner = [kind for kind in drawn if kind != outer and FAULTS[kind].on_host] if outer else []
    said, within = [], []
    for kind in drawn:
        if kind == outer:
            soak.meanwhile = [partial(lambda kind: within.append(f"{kind} ({FAULTS[kind].do(soak)})"), kind) for kind in inner]
        if kind not in inner:
            what = f"{kind} ({FAULTS[kind].do(soak)})"
            said.append(f"[{' + '.join(within)}] within {what}" if kind == outer and within else what)
    return " + ".join(said), bool(inner)


def may_lose_s(drawn: list[str], backends: set[str], nested: bool) -> float:
    """The longest outage that these faults may make."""
    if not all(FAULTS[kind].lossless for kind in drawn):
        return float("inf")
    if "udp" not in backends:
        return 0.0
    stopped = "daemon stopped for a while" in drawn or (nested and any(kind in NEEDS_DAEMON for kind in drawn))
    return float("inf") if stopped else UDP_LOSS_S


def ended(run: Run) -> list[str]:
    """Daemons that ended by themselves; they are started again."""
    found, soak = [], run.soak
    for name, one in list(soak.daemons.items()):
        if one.process.poll() is not None:
            found.append(f"{name}: flanneld ended with exit code {one.process.returncode}: {last_lines(one.log)}")
            soak.start(soak.places[name])
            soak.daemons[name].await_said("ready")
    run.exits += found
    return found


def write_down(run: Run, drawn: list[str], stages: list[Convergence], outage: float) -> None:
    for kind in drawn:
        run.records[kind].times += 1
    record = run.records[drawn[0]]
    record.wrong += bool(run.stories[-1].wrong)
    if len(drawn) == 1:
        record.converged_s += [stage.took_s for stage in stages]
        record.outages_s.append(outage)


if __name__ == "__main__":
    main()
