"""`tartan doctor`: what is wrong with flannel on this host, which command shows it, and what to do; a table or JSON out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

import click

from flanneld.flags import Options, read_options
from flanneld.goflags import UsageError
from flanneld.linux.netlink import Netlink
from tartan.checks.examination import Examination
from tartan.checks.finding import Finding, Level, exit_code
from tartan.running import Running, running_here

MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.ERROR: "WRONG", Level.UNKNOWN: "unknown"}
STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red", Level.UNKNOWN: "magenta"}
SUMMARY = {0: "nothing is wrong", 2: "nothing wrong was found, but not everything could be looked at"}


class WithGoFlags(click.Command):
    """Takes flanneld's flags with one hyphen too, as Go's are written."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(
            ctx, [f"-{word}" if word[:1] == "-" and word[1:2].isalpha() and word[2:] else word for word in args]
        )


@click.command(cls=WithGoFlags, context_settings={"ignore_unknown_options": True})
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="json: one object a line.")
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[--etcd-...|--iface...|--subnet-file...]...")
def doctor(output: str, flags: tuple[str, ...]) -> None:
    """Compare etcd, leases, kernel, firewall, MTU and reachability on this host, and say in words what is wrong.

    Takes flanneld's flags and FLANNELD_... variables; those of the flanneld that runs here need not be repeated.

    Changes nothing. Exits 1 if something is wrong, 2 if nothing was found but not everything could be looked at.
    """
    running = running_here()
    try:
        options = options_of(running, flags, os.environ)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    logging.disable(logging.WARNING)  # the parts of flanneld that are asked say what is a finding here
    with Netlink() as nl:
        findings = asyncio.run(Examination(options, running, nl).run())
    if output == "json":
        for finding in findings:
            click.echo(json.dumps(asdict(finding)))
    else:
        show(findings)
    sys.exit(exit_code(findings))


def options_of(running: Sequence[Running], flags: Sequence[str], environ: Mapping[str, str]) -> Options:
    """What the flanneld that runs here was told, if there is just one, and then what we are told; raises UsageError."""
    if len(running) != 1:
        return read_options(flags, environ)
    (one,) = running
    try:
        return read_options([*one.arguments, *flags], {**one.environ, **environ})
    except UsageError:  # a newer flanneld, or Go's with a flag that is not ours
        return read_options(flags, environ)


def show(findings: Collection[Finding]) -> None:
    """One line for each, and below what to do about those that are not well."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False)
    for heading in ("", "subject", "what"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(Text(MARKS[finding.level], STYLES[finding.level]), finding.subject, finding.what)
    console = Console(markup=False, emoji=False, highlight=False)  # what other hosts wrote is no markup of ours
    console.print(table)
    for finding in findings:
        if finding.level is not Level.OK:
            _explain(finding)
    count = sum(finding.level is Level.ERROR for finding in findings)
    click.echo(
        f"{count} wrong" if count else "nothing is wrong" if exit_code(findings) == 0 else "nothing was found, but see above"
    )


def _explain(finding: Finding) -> None:
    click.echo(f"{MARKS[finding.level]}: {finding.subject}: {finding.what}")
    for heading, words in (("shown by", finding.shown_by), ("what to do", finding.remedy)):
        if words:
            click.echo(f"    {heading}: {words}")
    click.echo()
