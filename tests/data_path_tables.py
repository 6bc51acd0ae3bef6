"""The figures of a run as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from rich import box
from rich.table import Table

from data_path_targets import DATAGRAMS, REFERENCES, RTT, RTT_P99, TARGETS, TCP, TCP4, Findings, Target
from data_paths import Underlay

MEANING = {
    Underlay.SOFT: "packets of up to 64 KB cross the underlay whole, as between containers and virtual machines of one host",
    Underlay.WIRE: "packets of the underlay's MTU cross it: cut before and merged after by software, as behind a plain NIC",
}


def short(number: float) -> str:
    """With no more digits than it deserves."""
    return f"{number:.2f}" if number < 9.995 else f"{number:.1f}"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure, as it is shown."""

    heading: str
    show: Callable[[float], str]


METRICS = {
    TCP: Metric("1 TCP Gbit/s", lambda bits_per_s: short(bits_per_s / 1e9)),
    TCP4: Metric("4 TCP Gbit/s", lambda bits_per_s: short(bits_per_s / 1e9)),
    DATAGRAMS: Metric("64 B UDP k/s", lambda per_s: f"{per_s / 1e3:.0f}"),
    RTT: Metric("RTT us", lambda seconds: f"{seconds * 1e6:.0f}"),
    RTT_P99: Metric("p99 us", lambda seconds: f"{seconds * 1e6:.0f}"),
}
CPU = {
    "daemons_s_per_gb": Metric("daemons s/GB", lambda seconds: f"{seconds:.2f}"),
    "machine_s_per_gb": Metric("machine s/GB", lambda seconds: f"{seconds:.2f}"),
}


def figures(findings: Findings, underlay: Underlay) -> Table:
    """Medians, and in brackets the median ratio to the path named last."""
    made = Table(title=f"{underlay}: {MEANING[underlay]}", title_justify="left", box=box.SIMPLE, padding=0)
    made.add_column(no_wrap=True)
    for metric in (*METRICS.values(), *CPU.values()):
        made.add_column(metric.heading, justify="right")
    made.add_column("(ratio to)", no_wrap=True)
    measured = {sample.path for sample in findings.samples if sample.underlay == underlay}
    for path, reference in REFERENCES.items():
        if path in measured:
            cells = [_cell(findings, path, underlay, name, METRICS[name]) for name in METRICS]
            costs = [metric.show(findings.median(path, underlay, name) or 0) for name, metric in CPU.items()]
            made.add_row(path, *cells, *costs, reference if reference != path else "")
    return made


def _cell(findings: Findings, path: str, underlay: Underlay, name: str, metric: Metric) -> str:
    middle, reference = findings.median(path, underlay, name), REFERENCES[path]
    if middle is None:
        return "-"
    ratios = findings.ratios(path, underlay, name, reference) if reference != path else []
    return f"{metric.show(middle)} ({short(median(ratios))})" if ratios else metric.show(middle)


def targets(findings: Findings) -> Table:
    """Each target of a path that was to be measured, with what was found: the median ratio and the rounds' range."""
    made = Table(title="targets: ratios in the same round", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("", "", "target", *Underlay):
        made.add_column(heading)
    measured = {sample.path for sample in findings.samples}
    for path, group in groupby(TARGETS, lambda target: target.path):
        for target in group if path in measured else ():
            goal = f"{'>=' if target.at_least else '<='} {target.bound:g} x {target.reference}"
            made.add_row(
                path, METRICS[target.metric].heading, goal, *(_verdict(findings, target, underlay) for underlay in Underlay)
            )
    return made


def _verdict(findings: Findings, target: Target, underlay: Underlay) -> str:
    if underlay not in target.underlays:
        return ""
    ratios = findings.ratios(target.path, underlay, target.metric, target.reference)
    if not ratios:
        return "not measured"
    middle = median(ratios)
    return f"{'met    ' if target.met(middle) else 'NOT MET'} {middle:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def told(facts: Mapping[str, object]) -> str:
    """What flanneld said about a data path."""
    return ", ".join(f"{key} {value}" for key, value in facts.items()) or "nothing said"
