"""`python -m lab.demo`: a lab for each backend in turn, every proof in it, a line for each, then the table; nothing stays."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flanneld import FlanneldError
from lab import LabError
from lab.demo.proofs import PROOFS
from lab.lab import Lab, require_root
from lab.logs import last_lines
from lab.signals import leave_by_exception
from lab.state import release
from lab.topology import generate

BACKENDS = ("vxlan", "host-gw", "udp", "bgp")
HOSTS = 3
READY = f"{HOSTS} hosts, flanneld and pods up, seconds"
TITLES = (READY, *(proof.title for proof in PROOFS))
FAILED = "FAILED"
FAILURES = (LabError, FlanneldError, OSError)
"""What a lab that does not work raises; anything else is a fault of the demo itself."""
WIDTH = 100
"""Characters, where there is no terminal to ask."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What one backend's lab showed; filled as it shows."""

    backend: str
    console: Console
    cells: dict[str, str] = field(default_factory=dict)
    """By title."""
    failures: list[str] = field(default_factory=list)

    def found(self, title: str, cell: str) -> None:
        self.cells[title] = cell
        self.console.print(f"{self.backend:<8}", f"{title:<{max(map(len, TITLES))}}", _coloured(cell))

    def failed(self, title: str, error: Exception) -> None:
        self.found(title, FAILED)
        self.failures.append(f"{self.backend}: {title}: {error}")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("backends", nargs=-1, type=click.Choice(BACKENDS))
def demo(backends: Sequence[str]) -> None:
    """Prove every backend, or those named, in labs on this machine. Exit 1 if anything is not as it should be."""
    start = time.monotonic()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    findings = prove_all(backends or BACKENDS, console)
    console.print(table(findings))
    failures = [failure for each in findings for failure in each.failures]
    for failure in failures:
        console.print(Text(failure), soft_wrap=True)
    console.print(f"{'something' if failures else 'nothing'} failed, nothing is left behind, {time.monotonic() - start:.0f} s")
    sys.exit(1 if failures else 0)


def prove_all(backends: Sequence[str], console: Console) -> list[Findings]:
    """One lab after the other. Whatever ends it, no lab stays."""
    leave_by_exception()
    name = f"demo-{os.getpid()}"
    try:
        require_root()
        return [prove(backend, name, console) for backend in backends]
    except LabError as error:
        sys.exit(f"demo: {error}")
    finally:
        release(name)  # a signal can come between any two steps, also between a lab's making and its `with`


def prove(backend: str, name: str, console: Console) -> Findings:
    """Bring a lab up and prove what can be proven; what fails is noted, with the daemons' last words, and the rest goes on."""
    findings = Findings(backend, console)
    start = time.monotonic()
    try:
        with Lab.up(generate(HOSTS, backend=backend), name=name) as lab:
            findings.found(READY, f"{time.monotonic() - start:.2f}")
            prove_in(lab, findings)
    except FAILURES as error:
        findings.failed(READY, error)
    return findings


def prove_in(lab: Lab, findings: Findings) -> None:
    """Go through all proofs."""
    for proof in PROOFS:
        try:
            findings.found(proof.title, proof.find(lab))
        except FAILURES as error:
            findings.failed(proof.title, error)
    if findings.failures:
        findings.failures.extend(f"flanneld on {host.name}:\n{last_lines(lab.flanneld_log(host))}" for host in lab.hosts)


def table(findings: Sequence[Findings]) -> Table:
    """A row for each proof, a column for each backend."""
    made = Table(box=box.SIMPLE)
    made.add_column("proven", no_wrap=True)
    for each in findings:
        made.add_column(each.backend)
    for title in TITLES:
        made.add_row(title, *(_coloured(each.cells.get(title, "-")) for each in findings))
    return made


def _coloured(cell: str) -> Text:
    return Text(cell, style="red" if cell == FAILED else "green")


if __name__ == "__main__":
    demo(prog_name="./dev demo")
