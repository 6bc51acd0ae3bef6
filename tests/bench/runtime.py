"""`./dev bench runtime`: what a container costs our engine, beside podman, dockerd and runc alone in the same run.

Engines take turns in every round, so that what else the machine does falls on all of them. All run containers by the same runc and
keep their files on the same disk; podman and dockerd are Debian's. An engine whose program is not here is left out.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.datapath import WIDTH, machine
from flanneld import FlanneldError
from lab import LabError
from lab.signals import leave_by_exception
from runtime_bench_images import SKOPEO, pulls, unpackings
from runtime_bench_rivals import Rival, rivals, write_image
from runtime_bench_starts import at_once_ms, bare_runc, in_turns, memory, own_shares

FAILURES = (LabError, FlanneldError, OSError, AssertionError, subprocess.SubprocessError)
OURS, THEIRS = "tartan", ("podman", "dockerd")
ALONE = ("runc", "skopeo", "GNU tar")
"""What does a part of it, in one column: no row has two of them."""
MANY = 50
ANYWHERE = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """Something measured, with its unit in its words."""

    what: str
    values: Mapping[str, Sequence[float]]
    """By who did it, of the same round at the same place."""
    bound: float | None = None
    """At most so much is wanted of ours; None: it is only shown."""
    times: str = ""
    """Of whose the bound is a multiple; "": it is an amount."""


@dataclass(frozen=True, slots=True)
class World:
    """What there is to measure with."""

    directory: Path
    image: Path
    rivals: Sequence[Rival]
    rounds: int

    @property
    def ours(self) -> Rival:
        return self.rivals[0]


def starts(world: World) -> Iterator[Row]:
    """`run --rm`, by each engine's own client."""
    alone = bare_runc(world.directory / "bundle", world.ours)
    found = in_turns(world.rivals, alone, world.rounds)
    bounds = {"none": 120, "bridge": 130}
    for network, bound in bounds.items():
        yield Row(f"ms: run --rm --network {network} busybox true", found[network], bound)
    yield Row("ms: of that the client's: docker ps", found["client"])


def share(world: World) -> Iterator[Row]:
    """What of a start is the engine's own, with a runtime that does nothing."""
    found = own_shares(world.directory / "share", world.image, world.rounds)
    for network, values in found.start.items():
        yield Row(f"ms: the engine's own share of a start, network {network}", {OURS: values}, 15)
    for network, values in found.create.items():
        yield Row(f"ms: to create a container, network {network}", {OURS: values})


def parallel(world: World) -> Iterator[Row]:
    """Containers started at the same time."""
    able = [rival for rival in world.rivals if rival.socket]
    found = {rival.name: [at_once_ms(rival, MANY) / 1e3 for _ in range(3)] for rival in able}
    yield Row(f"s: {MANY} containers started at once, network bridge", found, 5)


def sizes(world: World) -> Iterator[Row]:
    """Memory of what serves containers."""
    found = {rival.name: memory(rival) for rival in world.rivals}
    engines = {name: each for name, each in found.items() if each.engine_rss}
    yield Row("MiB PSS: the engine, with CRI served", {name: [each.engine_pss] for name, each in engines.items()}, 60)
    yield Row("MiB RSS: the same", {name: [each.engine_rss] for name, each in engines.items()}, 60)
    yield Row("MiB PSS: beside each container", {name: [each.container_pss] for name, each in found.items()}, 2)
    yield Row("MiB RSS: the same", {name: [each.container_rss] for name, each in found.items()}, 2)


def images(world: World) -> Iterator[Row]:
    """Pulling and unpacking."""
    rounds = max(2, world.rounds // 4)
    if SKOPEO.exists():
        found = pulls(world.directory, world.ours, rounds)
        yield Row("s: pull of 100 MB in 4 layers from loopback, skopeo: copy", found, 1.2, "skopeo")
    yield Row("s: a layer of 20,000 files unpacked", unpackings(world.directory, rounds), 1.2, "GNU tar")


MEASURES: Mapping[str, Callable[[World], Iterator[Row]]] = {
    "memory": sizes,
    "starts": starts,
    "share": share,
    "parallel": parallel,
    "images": images,
}


def table(rows: Sequence[Row], about: Mapping[str, str | int]) -> Table:
    """Medians, and of ours the least, nearest to a machine at rest; ratios to ours; whether our median meets the target."""
    title = ", ".join(f"{name} {value}" for name, value in about.items())
    made = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("", f"{OURS} (least)", *THEIRS, "/".join(ALONE), "n"):
        made.add_column(heading, justify="right" if heading else "left")
    made.add_column("target")
    for row in rows:
        ours = sorted(row.values[OURS])
        alone = next((_beside(row, name) for name in ALONE if name in row.values), "")
        own = f"{_short(median(ours))} ({_short(ours[0])})"
        made.add_row(row.what, own, *(_beside(row, name) for name in THEIRS), alone, str(len(ours)), _verdict(row))
    return made


def _beside(row: Row, name: str) -> str:
    if name not in row.values:
        return ANYWHERE
    return f"{_short(median(row.values[name]))} (x{_ratio(row, name):.2f})"


def _ratio(row: Row, name: str) -> float:
    """Theirs to ours, round by round."""
    return median(theirs / ours for theirs, ours in zip(row.values[name], row.values[OURS], strict=True))


def _verdict(row: Row) -> str:
    if row.bound is None:
        return ""
    reached = 1 / _ratio(row, row.times) if row.times else median(row.values[OURS])
    return f"<= {row.bound:g}{f' x {row.times}' if row.times else ''} {'met' if reached <= row.bound else 'NOT MET'}"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(2), default=20, show_default=True)
@click.option("--only", "names", multiple=True, type=click.Choice(list(MEASURES)), help="[default: all]")
@click.option("--alone", is_flag=True, help="Without podman and dockerd.")
@click.option("--directory", type=click.Path(path_type=Path, exists=True), help="Where engines keep their files.  [default: /tmp]")
def main(rounds: int, names: tuple[str, ...], alone: bool, directory: Path | None) -> None:
    """Measure and print."""
    leave_by_exception()
    rows, failed = list[Row](), dict[str, str]()
    with TemporaryDirectory(prefix="bench-", dir=directory, ignore_cleanup_errors=True) as place, ExitStack() as stack:
        where = Path(place)
        write_image(where / "image.tar")
        world = World(where, where / "image.tar", _opened(where, stack, failed, alone=alone), rounds)
        for name in names or MEASURES:
            try:
                rows += MEASURES[name](world)
            except FAILURES as error:
                failed[name] = str(error)
        about = machine()
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table(rows, about))
    for name, why in failed.items():
        console.print(f"LEFT OUT: {name}: {why}")
    sys.exit(bool(failed))


def _opened(directory: Path, stack: ExitStack, failed: dict[str, str], *, alone: bool) -> list[Rival]:
    """The engines that there are, ours first; without ours there is nothing to measure."""
    opened = []
    for name, make in rivals().items():
        if alone and name != OURS:
            continue
        try:
            opened.append(stack.enter_context(make(directory / name, directory / "image.tar")))
        except FAILURES as error:
            if name == OURS:
                raise
            failed[name] = str(error)
    return opened


if __name__ == "__main__":
    main(prog_name="./dev bench runtime")
