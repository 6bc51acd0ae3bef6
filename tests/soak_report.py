"""What a soak has seen, kind by kind, and how it is printed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.datapath import WIDTH
from flanneld_world import Flanneld
from soak_faults import FAULTS
from soak_pings import INTERVAL_S
from soak_state import Soak

SHOWN = 8
"""Of what daemons say most often."""
MOST = 12
"""Lines about one wrong state."""


@dataclass
class Record:
    """What one kind of fault did, each time that it came alone."""

    times: int = 0
    """With others too."""
    converged_s: list[float] = field(default_factory=list)
    outages_s: list[float] = field(default_factory=list)
    wrong: int = 0


@dataclass(frozen=True)
class Story:
    """One draw, as it went."""

    kinds: list[str]
    what: str
    backend: str
    wrong: list[str]
    """What was not as it should be, line by line; all together they are one wrong state."""


@dataclass
class Run:
    """All of a soak."""

    soak: Soak
    seed: int
    began: float = field(default_factory=time.monotonic)
    stories: list[Story] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=lambda: {kind: Record() for kind in FAULTS})
    exits: list[str] = field(default_factory=list)
    memory_mib: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.memory_mib = memory(self.soak)

    def wrong(self) -> list[tuple[int, Story]]:
        return [(number, story) for number, story in enumerate(self.stories, 1) if story.wrong]


def excerpt(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST else [*lines[:MOST], f"and {len(lines) - MOST} more"]


def memory(soak: Soak) -> dict[str, float]:
    return {name: one.rss_mib() for name, one in soak.daemons.items() if one.process.poll() is None}


def print_report(run: Run) -> None:
    Console(width=WIDTH).print(_table(run))
    for number, story in run.wrong():
        print(f"WRONG {number}: {story.backend}: {story.what}")
        for line in excerpt(story.wrong):
            print(f"  {line}")
    together = sum(len(story.kinds) > 1 for story in run.stories)
    hours = (time.monotonic() - run.began) / 3600
    print(f"seed {run.seed}: {len(run.stories)} draws, {together} of them of several faults, in {hours * 60:.1f} minutes")
    print(f"wrong states: {len(run.wrong())}; daemons that ended by themselves: {len(run.exits)}")
    print(f"echoes between all pods every {INTERVAL_S * 1000:.0f} ms")
    after = memory(run.soak)
    print("memory of the daemons, MiB:", ", ".join(f"{name} {run.memory_mib[name]:.1f} -> {after[name]:.1f}" for name in after))
    for line in _said(run.soak.world.daemons, hours * len(run.soak.places)):
        print(line)


def _table(run: Run) -> Table:
    table = Table("fault", "times", "converged s (median, max)", "longest outage s", "may lose", "wrong", box=box.SIMPLE)
    for kind, record in run.records.items():
        if not record.times:
            continue
        times = record.converged_s
        took = f"{median(times):.2f}  {max(times):.2f}" if times else "-"
        outage = f"{max(record.outages_s):.2f}" if times else "-"
        lossy = "" if FAULTS[kind].lossless else "yes"
        table.add_row(kind, str(record.times), took, outage, lossy, str(record.wrong or ""))
    return table


def _parsed(line: str) -> dict[str, Any]:
    """A log line; anything else, such as a traceback, is an error."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"level": "error", "event": "no log line", "text": line}
    return found


def _said(daemons: list[Flanneld], hours: float) -> Iterator[str]:
    """How much the daemons have said, and what of it was serious."""
    lines = [_parsed(line) for one in daemons for line in one.log.read_text().splitlines()]
    yield f"log lines: {len(lines)}, {len(lines) / hours:.0f} an hour and host"
    for level in ("error", "warning"):
        events = Counter(line["event"] for line in lines if line["level"] == level)
        most = ", ".join(f"{event!r} {times}" for event, times in events.most_common(SHOWN))
        examples = {line["event"]: line for line in lines if line["level"] == level}
        yield f"of these {level}: {events.total()}{': ' * bool(events)}{most}"
        if level == "error":
            yield from (f"  for example {line}" for line in examples.values())
