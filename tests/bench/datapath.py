"""`./dev bench datapath`: every data path's throughput, small-packet rate and round trip, against others in the same run.

All data paths are up at once and take turns in every round, so that what else the machine does falls on all of them; a ratio is the
median of the rounds' ratios. A path that does not start, or stops carrying packets, is said and left out, and the exit code is 1.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TextIO

import click
from rich.console import Console

from data_path_measures import Sample, Settings, compile_programs, measure
from data_path_tables import figures, targets, told
from data_path_targets import Findings, with_references
from data_paths import PATHS, DataPath, Underlay, open_path
from flanneld import FlanneldError
from lab import LabError
from lab.signals import leave_by_exception

RULES = "by hand: one rule that masquerades, but for plain routing; flanneld: its defaults and --ip-masq"
WIDTH = 132
"""Characters, where there is no terminal to ask."""
FAILURES = (LabError, FlanneldError, OSError, subprocess.SubprocessError)


@dataclass(slots=True)
class Run:
    """How to measure, and what was found."""

    settings: Settings
    progress: Console
    samples: list[Sample] = field(default_factory=list)
    facts: dict[str, dict[str, object]] = field(default_factory=dict)
    """By path, what its flanneld has said about it."""
    failed: dict[str, str] = field(default_factory=dict)
    """By path, why it has no more samples."""

    def open(self, name: str, stack: ExitStack) -> DataPath | None:
        """Bring a path up until the stack is closed; one that does not start is gone at once."""
        try:
            with ExitStack() as own:
                path = open_path(name, own, self.settings.programs)
                stack.push(own.pop_all())
                return path
        except FAILURES as error:
            self._fail(name, f"does not start: {error}")
            return None

    def take(self, path: DataPath, number: int, underlay: Underlay) -> None:
        """Measure once more what has not failed yet."""
        if path.name in self.failed:
            return
        self.progress.print(f"round {number + 1}: {underlay}, {path.name}")
        try:
            self.samples.append(Sample(number, underlay, path.name, measure(path, underlay, self.settings)))
            self.facts[path.name] = path.facts()
        except FAILURES as error:
            self._fail(path.name, f"fails in {underlay}, round {number + 1}: {error}")

    def _fail(self, name: str, why: str) -> None:
        self.failed[name] = why
        self.progress.print(f"{name} {why}")


def measure_all(run: Run, names: Sequence[str], rounds: int, underlays: Sequence[Underlay]) -> None:
    """Bring these data paths up, measure them in turn, another one first in each round, and take them away."""
    compile_programs(run.settings.programs)
    with ExitStack() as stack:
        paths = [path for name in names if (path := run.open(name, stack))]
        for number in range(rounds):
            first = number % max(len(paths), 1)
            for underlay, path in product(underlays, paths[first:] + paths[:first]):
                run.take(path, number, underlay)


def print_run(run: Run, about: dict[str, str | int], underlays: Sequence[Underlay]) -> None:
    """All tables, what flanneld said, and what failed."""
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    console.print(RULES)
    if others := sorted(sample.values["others_cores"] for sample in run.samples):
        console.print(f"cores that other programs kept busy before a measurement: {median(others):.2f}, at most {others[-1]:.2f}")
    findings = Findings(run.samples)
    for underlay in underlays:
        console.print(figures(findings, underlay))
    console.print(targets(findings))
    for name, facts in run.facts.items():
        if facts:
            console.print(f"{name}: {told(facts)}")
    for name, why in run.failed.items():
        console.print(f"LEFT OUT: {name} {why}")


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
@click.option("--path", "names", multiple=True, type=click.Choice(list(PATHS)), help="This one and what it is compared with.")
@click.option("--soft", is_flag=True, help="The underlay that takes packets of 64 KB; without --soft and --wire, both.")
@click.option("--wire", is_flag=True, help="The underlay that takes packets of its MTU.")
@click.option("--congestion", help="TCP's congestion control.  [default: the machine's]")
@click.option("--patience", type=click.FloatRange(0), default=0, help="Seconds to wait for other programs to rest, each time.")
@click.option("--json", "file", type=click.File("w", lazy=False), help="Write every sample to this file, for `./dev bench plots`.")
def main(
    rounds: int,
    seconds: int,
    names: tuple[str, ...],
    soft: bool,
    wire: bool,
    congestion: str | None,
    patience: float,
    file: TextIO | None,
) -> None:
    """Measure data paths, all without --path; print medians and ratios, and which targets are met."""
    leave_by_exception()
    underlays = [underlay for underlay, given in zip(Underlay, (soft, wire), strict=True) if given or soft == wire]
    about = {**machine(), "rounds": rounds, "seconds": seconds}
    about |= {"tcp": congestion} if congestion else {}
    with TemporaryDirectory() as directory:
        settings = Settings(seconds, Path(directory), str(about["tcp"]), patience)
        run = Run(settings, Console(stderr=True, highlight=False, markup=False))
        try:
            measure_all(run, with_references(names or PATHS), rounds, underlays)
        except FAILURES as error:
            sys.exit(f"bench: {error}")
    if file is not None:
        samples = [asdict(sample) for sample in run.samples]
        json.dump({**about, "samples": samples, "facts": run.facts, "failed": run.failed}, file, indent=1)
    print_run(run, about, underlays)
    sys.exit(1 if run.failed else 0)


if __name__ == "__main__":
    main(prog_name="./dev bench datapath")
