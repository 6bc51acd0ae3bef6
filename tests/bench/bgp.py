"""`./dev bench bgp`: how fast the bgp backend's hosts hear of what changes and of who has died, and what that costs.

When something is in a kernel, or is gone from it, the kernel itself has told; the clock begins before whatever is done. Of a mesh's
start the interpreters' is most, and it is the machine's: so it counts from when the last host's exabgp runs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.datapath import WIDTH, machine
from bgp_bench_faults import dead, lost
from bgp_bench_mesh import Usage, announced, idle, mesh, usage
from bgp_bench_router import received
from bgp_world import HOLD_S
from flanneld import FlanneldError
from lab import LabError
from lab.signals import leave_by_exception
from netns_programs import ProgramError

FAILURES = (LabError, FlanneldError, ProgramError, OSError, AssertionError, subprocess.SubprocessError)
ANNOUNCED = 25
"""Prefixes of each mesh, one after the other."""
IDLE_S = 20.0
CUTS = 5
"""Of a link with BFD in each round; without, there is one: it takes ten seconds."""
COUNTS = (1000, 10_000)


@dataclass(frozen=True, slots=True)
class Row:
    """Something measured, with its unit in its words."""

    what: str
    values: Sequence[float]
    bound: float | None = None
    """At most so much is wanted; None: it is only shown."""


def announce(hosts: int, rounds: int) -> Iterator[Row]:
    """Two hosts, and one prefix after the other."""
    found = _joined(_announced(2) for _ in range(rounds))
    yield Row("2 hosts: a new prefix of one, ms until it is in the other's kernel", found["came_all"], 40)
    yield Row("2 hosts: a prefix is withdrawn, ms until it is gone there", found["went_all"])


def _announced(hosts: int) -> dict[str, list[float]]:
    with mesh(hosts) as made:
        return announced(made, ANNOUNCED)


def many(hosts: int, rounds: int) -> Iterator[Row]:
    """A mesh of many hosts, from cold."""
    found: list[dict[str, list[float]]] = []
    idles: list[Usage] = []
    for number in range(rounds):
        began = time.time()
        with mesh(hosts) as made:
            starts = [usage(one).total for one in made.world.daemons]
            times = {"running": [made.running - made.began], "routes": [max(made.done - made.running, 0)]}
            found.append({**times, "whole": [made.done - began], "start": starts, **announced(made, ANNOUNCED)})
            if number == rounds - 1:
                idles = idle(made, IDLE_S)
    joined, who = _joined(found), f"{hosts} hosts"
    yield Row(f"{who}: all {hosts * (hosts - 1)} routes are in kernels, s after all daemons run", joined["routes"], 6)
    yield Row(f"{who}: all daemons run, s after the first was started", joined["running"])
    yield Row(f"{who}: the whole, s from namespaces and etcd to routes", joined["whole"])
    yield Row(f"{who}: s CPU of one host's flanneld, exabgp and relay for that", joined["start"])
    yield Row(f"{who}: a new prefix of one, ms until it is in all others' kernels", joined["came_all"], 60)
    yield Row(f"{who}: the same, ms until it is in half of them", joined["came_any"])
    yield Row(f"{who}: a prefix is withdrawn, ms until it is gone everywhere", joined["went_all"])
    yield Row(f"{hosts - 1} peers, nothing happens, % of a core", _percent(idles, lambda each: each.total), 1.5)
    for name, part in PARTS.items():
        yield Row(f"{hosts - 1} peers, nothing happens, % of a core: {name}", _percent(idles, part))


def routes(hosts: int, rounds: int) -> Iterator[Row]:
    """Thousands from one neighbour."""
    for count, bound in zip(COUNTS, (1, 10), strict=True):
        found = received(count, rounds)
        yield Row(f"{count} routes of a BIRD, s until all are in the kernel", [each.came_s for each in found], bound)
        yield Row(f"{count} routes withdrawn, s until all are gone", [each.went_s for each in found])
        for name, part in PARTS.items():
            yield Row(f"{count} routes, s CPU: {name}", [part(each.usage) for each in found])


def death(hosts: int, rounds: int) -> Iterator[Row]:
    """A host that is cut off, and says nothing."""
    soon = [gone_s * 1000 for gone_s in dead(rounds * CUTS, bfd=True)]
    yield Row("a host dies, BFD 100 ms x 3, ms until its route is gone", soon, 400)
    yield Row(f"a host dies, hold time {HOLD_S:g} s, s until its route is gone", dead(rounds, bfd=False), HOLD_S)


def restart(hosts: int, rounds: int) -> Iterator[Row]:
    """Both processes of one host are killed, and come back."""
    yield Row("flanneld and exabgp killed and away for 3 s, echoes lost of pods' pings 10 ms apart", lost(rounds), 0)


PARTS: Mapping[str, Callable[[Usage], float]] = {
    "flanneld": lambda each: each.flanneld,
    "exabgp": lambda each: each.exabgp,
    "relay": lambda each: each.relay,
}
MEASURES: Mapping[str, Callable[[int, int], Iterator[Row]]] = {
    "announce": announce,
    "mesh": many,
    "routes": routes,
    "death": death,
    "restart": restart,
}


def _joined(rounds: Sequence[Mapping[str, list[float]]] | Iterator[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for each in rounds:
        for name, values in each.items():
            found.setdefault(name, []).extend(values)
    return found


def _percent(usages: Sequence[Usage], part: Callable[[Usage], float]) -> list[float]:
    return [part(each) / IDLE_S * 100 for each in usages]


def table(rows: Sequence[Row], about: Mapping[str, str | int]) -> Table:
    """Medians and the worst, and whether the median meets the target."""
    title = ", ".join(f"{name} {value}" for name, value in about.items())
    made = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading, justify in {"": "left", "median": "right", "(worst)": "right", "of": "right", "target": "left"}.items():
        made.add_column(heading, justify="right" if justify == "right" else "left")
    for row in rows:
        goal = "" if row.bound is None else f"<= {row.bound:g} {'met' if median(row.values) <= row.bound else 'NOT MET'}"
        shown = f"{median(row.values):.2f}", f"({max(row.values):.2f})"
        made.add_row(row.what, *shown, str(len(row.values)), goal)
    return made


@click.command(help=__doc__)
@click.option("--hosts", type=click.IntRange(2, 200), default=30, show_default=True, help="Of `mesh`.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--only", "names", multiple=True, type=click.Choice(list(MEASURES)), help="[default: all]")
def main(hosts: int, rounds: int, names: tuple[str, ...]) -> None:
    """Measure and print."""
    leave_by_exception()
    about, rows, failed = machine(), list[Row](), dict[str, str]()
    for name in names or MEASURES:
        try:
            rows += MEASURES[name](hosts, rounds)
        except FAILURES as error:
            failed[name] = str(error)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table(rows, about))
    for name, why in failed.items():
        console.print(f"LEFT OUT: {name}: {why}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(prog_name="./dev bench bgp")
