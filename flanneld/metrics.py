"""Metrics as values, and their text: Prometheus' exposition format 0.0.4; must not know what is measured.

A library for it takes 5 MiB and 35 ms of a daemon that should be small; the format is three kinds of lines. Tests read it with that
library's parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeAlias

from flanneld.tally import BOUNDS_S, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric with all its samples at one moment."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    """One sentence: what the number is, and what to make of it."""
    samples: tuple[tuple[str, Labels, float], ...]
    """Suffix of the name, labels, value."""


def gauge(name: str, help_: str, value: float | None) -> Metric:
    """A number that goes up and down; None: there is none now."""
    return Metric(name, "gauge", help_, () if value is None else (("", {}, value),))


def gauges(name: str, help_: str, label: str, values: Mapping[str, float]) -> Metric:
    """One for each value of a label."""
    return Metric(name, "gauge", help_, tuple(("", {label: key}, value) for key, value in values.items()))


def info(name: str, help_: str, *labels: Labels) -> Metric:
    """What is no number: always 1, it is the labels that tell."""
    return Metric(name, "gauge", help_, tuple(("", each, 1) for each in labels))


def counter(name: str, help_: str, value: float) -> Metric:
    """A number that only grows, until the daemon starts anew."""
    return Metric(name, "counter", help_, (("", {}, value),))


def counters(name: str, help_: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """One for each set of labels."""
    return Metric(name, "counter", help_, tuple(("", labels, value) for labels, value in samples))


def histogram(name: str, help_: str, values: Histogram) -> Metric:
    """How often something took up to how long."""
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    buckets = tuple(("_bucket", {"le": bound}, count) for bound, count in zip(bounds, accumulate(values.counts), strict=True))
    return Metric(name, "histogram", help_, (*buckets, ("_sum", {}, values.sum_s), ("_count", {}, values.count)))


def render(metrics: Iterable[Metric]) -> str:
    """The text of a scrape."""
    lines: list[str] = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        lines += [f"{metric.name}{suffix}{_render_labels(labels)} {value:.17g}" for suffix, labels, value in metric.samples]
    return "".join(f"{line}\n" for line in lines)


def _render_labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


class Exporter:
    """What is exported: nothing, until there is something to look at."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], Iterable[Metric]]] = []

    def add(self, source: Callable[[], Iterable[Metric]]) -> None:
        """Ask this too at each scrape."""
        self._sources.append(source)

    def text(self) -> str:
        """A scrape."""
        return render(metric for source in self._sources for metric in source())
