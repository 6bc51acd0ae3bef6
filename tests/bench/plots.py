"""`./dev bench plots FILE`: what `./dev bench datapath --json FILE` has found, as pictures for the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import click
import pygal
from pygal.style import Style

from data_path_measures import Sample
from data_path_targets import DATAGRAMS, REFERENCES, RTT, RTT_P99, TCP, TCP4, Findings
from data_paths import Underlay

DOCS = Path(__file__).parents[2] / "docs"
COLOURS: Mapping[Underlay, Sequence[str]] = {Underlay.SOFT: ("#5b9bd0", "#b3d3ec"), Underlay.WIRE: ("#e08a6d", "#f6cdbd")}
"""A plot's first figure is the dark one."""
LOOK = Style(
    background="white",
    plot_background="white",
    font_family="sans-serif",
    guide_stroke_color="#dddddd",
    major_guide_stroke_color="#bbbbbb",
    guide_stroke_dasharray="1,0",
    major_guide_stroke_dasharray="1,0",
    foreground="#333333",
    foreground_strong="#111111",
    foreground_subtle="#999999",
    opacity="1",
    label_font_size=14,
    major_label_font_size=14,
    legend_font_size=14,
    title_font_size=18,
    value_font_size=11,
).to_dict()


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture."""

    file: str
    title: str
    metrics: Mapping[str, str]
    """By the name of the figure, what its bars are called."""
    scale: float
    """What a figure is divided by."""
    show: Callable[[float], str]


PLOTS = (
    Plot("throughput", "TCP from pod to pod, Gbit/s", {TCP: "1 stream", TCP4: "4 streams"}, 1e9, "{:.1f}".format),
    Plot("packets", "64-byte UDP datagrams received, thousands a second", {DATAGRAMS: "datagrams"}, 1e3, "{:.0f}".format),
    Plot("round-trip", "echo, microseconds", {RTT: "median", RTT_P99: "99th percentile"}, 1e-6, "{:.0f}".format),
    Plot(
        "cpu",
        "CPU seconds for a gigabyte of one TCP stream",
        {"machine_s_per_gb": "whole machine", "daemons_s_per_gb": "daemons"},
        1,
        "{:.2f}".format,
    ),
)


def drawn(plot: Plot, findings: Findings) -> str:
    """The picture as SVG: a group of bars for each path that was measured."""
    measured = {sample.path for sample in findings.samples}
    paths = [path for path in REFERENCES if path in measured]
    colours = [colour for underlay in Underlay for colour in COLOURS[underlay][: len(plot.metrics)]]
    chart = pygal.HorizontalBar(
        style=Style(**{**LOOK, "colors": colours}),
        title=plot.title,
        width=900,
        height=150 + 20 * len(paths) * len(plot.metrics) * len(Underlay),
        legend_at_bottom=True,
        legend_at_bottom_columns=4,
        print_values=True,
        formatter=plot.show,
        truncate_label=-1,
        truncate_legend=-1,
        margin=30,
        js=(),
    )
    chart.uuid = plot.file  # else another one each time, and every picture changes
    chart.x_labels = paths[::-1]  # the first is to be at the top
    for underlay in Underlay:
        for metric, called in plot.metrics.items():
            values = [findings.median(path, underlay, metric) for path in paths[::-1]]
            chart.add(f"{underlay}, {called}", [None if value is None else value / plot.scale for value in values])
    return plain(chart.render(is_unicode=True))


def plain(svg: str) -> str:
    """Without what only a browser's scripts could use, and without the date."""
    return re.sub(r"<script.*?</script>|<!--.*?-->|<desc .*?</desc>", "", svg, flags=re.DOTALL) + "\n"


def findings_of(samples: Sequence[Mapping[str, object]]) -> Findings:
    """The samples, as they were before they were written to a file."""
    return Findings([Sample(**{**sample, "underlay": Underlay(str(sample["underlay"]))}) for sample in samples])  # type: ignore[arg-type]  # as asdict made them


@click.command(help=__doc__)
@click.argument("file", type=click.File())
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), default=DOCS, help="Where to.  [default: docs]")
def main(file: TextIO, directory: Path) -> None:
    """Draw all of them."""
    findings = findings_of(json.load(file)["samples"])
    for plot in PLOTS:
        target = directory / f"performance-{plot.file}.svg"
        target.write_text(drawn(plot, findings))
        print(target)


if __name__ == "__main__":
    main(prog_name="./dev bench plots")
