"""`tartan leases`: who holds which subnet, until when, how to reach it; the store's answer as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Collection

import click

from flanneld import log
from flanneld.flags import Options, read_options
from flanneld.goflags import UsageError
from flanneld.lease import FAMILIES, Lease, Leases
from flanneld.stores.etcd import open_etcd_store

MINUTE_S, HOUR_S = 60, 3600


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of a table.")
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[--etcd-...]...")
def leases(as_json: bool, flags: tuple[str, ...]) -> None:
    """Show who holds which subnet, until when, and how to reach it.

    Takes flanneld's --etcd-endpoints, --etcd-prefix, --etcd-cafile and so on, and its FLANNELD_ETCD_... variables.
    """
    try:
        options = read_options(flags, os.environ)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    log.set_up(options.log_format)  # for leases that cannot be read
    found = sorted(asyncio.run(_fetch(options)).values(), key=lambda lease: [int(net.network_address) for net in lease.subnets])
    if as_json:
        for lease in found:
            click.echo(json.dumps(fields(lease)))
    else:
        _show(found, time.time())


async def _fetch(options: Options) -> Leases:
    store = open_etcd_store(options)
    try:
        return await store.leases()
    finally:
        await store.close()


def fields(lease: Lease) -> dict[str, object]:
    """A lease as JSON values; `expires` in Unix seconds, null for a reservation."""
    return {
        "subnets": [str(subnet) for subnet in lease.subnets],
        "publicIPs": [str(ip) for ip in lease.attrs.public_ips],
        "backend": lease.attrs.backend_type or None,
        "backendData": {str(family): json.loads(data) for family in FAMILIES if (data := lease.attrs.data(family))},
        "expires": lease.expires_at,
    }


def left(expires_at: float | None, now: float) -> str:
    """Time to the expiry, for people."""
    if expires_at is None:
        return "reserved"
    seconds = max(int(expires_at - now), 0)
    return f"{seconds // HOUR_S} h {seconds % HOUR_S // MINUTE_S:02} min" if seconds >= HOUR_S else f"{seconds // MINUTE_S} min"


def _show(found: Collection[Lease], now: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for heading in ("subnet", "host", "backend", "reached by", "expires in"):
        table.add_column(heading, overflow="fold")
    for lease in found:
        data = "\n".join(data for family in FAMILIES if (data := lease.attrs.data(family)))
        subnets, ips = ("\n".join(map(str, values)) for values in (lease.subnets, lease.attrs.public_ips))
        table.add_row(subnets, ips, lease.attrs.backend_type or "udp, alloc", data, left(lease.expires_at, now))
    Console(markup=False, emoji=False, highlight=False).print(table)  # what other hosts wrote is no markup of ours
    click.echo(f"{len(found)} leases")
