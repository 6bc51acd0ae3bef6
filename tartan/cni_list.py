"""`tartan cni list`: what this node's plugins hold for its pods; the ledger's records, one row for an attachment."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

import click

from cni.ledger import HeldAddress, HeldElement, HeldLink, Key, Record, State, read_ledger

SHORT_ID = 12
"""Characters of a container's id in the table, as `docker ps` shows it."""


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of a table.")
@click.option("--journal", type=click.Path(path_type=Path), help="The node's journal.  [default: where the plugins keep it]")
def show(as_json: bool, journal: Path | None) -> None:
    """Show what this node's plugins hold for its containers: addresses, links, ports."""
    attachments: dict[Key, list[Record]] = {}
    for record in sorted(read_ledger(journal or _journal()), key=lambda record: record.key):
        attachments.setdefault(record.key, []).append(record)
    if as_json:
        for records in attachments.values():
            click.echo(json.dumps(fields(records)))
    else:
        _show(attachments.values())


def _journal() -> Path:
    from cni.service import JOURNAL  # with all that works on the kernel, which reading a file of one's choice does without

    return JOURNAL


def fields(records: Sequence[Record]) -> dict[str, object]:
    """What the plugins hold for one attachment, as JSON values; `since` in Unix seconds."""
    key = records[0].key
    return {
        "network": key.network,
        "container": key.container_id,
        "ifname": key.ifname,
        "plugins": [record.plugin for record in records],
        "addresses": [str(address.ip) for record in records for address in record.of(HeldAddress)],
        "links": [link.name for record in records for link in record.of(HeldLink)],
        "ports": _ports(records),
        "netns": next((record.netns.path for record in records if record.netns), None),
        "state": _state(records),
        "since": min(record.since for record in records),
    }


def _ports(records: Collection[Record]) -> list[str]:
    """What a host's port leads to: the elements of portmap's maps, not those of its sets."""
    held = [element for record in records if record.plugin == "portmap" for element in record.of(HeldElement)]
    return [f"{element.key} -> {element.value}" for element in held if element.value]


def _state(records: Collection[Record]) -> State:
    """That of the plugin that is not there yet, or still there, if any."""
    return next((record.state for record in records if record.state is not State.MADE), State.MADE)


def _show(attachments: Collection[Sequence[Record]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for heading in ("network", "container", "ifname", "addresses", "links", "ports", "state", "since"):
        table.add_column(heading, overflow="fold")
    for records in attachments:
        shown = fields(records)
        held = ["\n".join(shown[name]) for name in ("addresses", "links", "ports")]  # type: ignore[arg-type]  # lists of texts
        since = datetime.fromtimestamp(min(record.since for record in records)).astimezone()
        key = records[0].key
        times = f"{since:%Y-%m-%d %H:%M:%S}"
        table.add_row(key.network, key.container_id[:SHORT_ID], key.ifname, *held, str(shown["state"]), times)
    Console(markup=False, emoji=False, highlight=False).print(table)
    click.echo(f"{len(attachments)} attachments")
