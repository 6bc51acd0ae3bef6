"""`tartan bgp`: sessions, routes and announcements of the bgp backend, on this host or on a lab's, as the daemon tells them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from bgp.control import SOCKET, ControlError, ask
from lab.place import Place

RUN = Path("/run/flannel")
"""Where flanneld keeps its state, unless --subnet-file says otherwise."""


@dataclass(frozen=True, slots=True)
class Site:
    """One host to ask."""

    name: str
    """"" for this one."""
    ask: Callable[[Mapping[str, object]], Any]


def of_host(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which host is asked."""
    for option in (
        click.option("-n", "--name", default="lab", show_default=True, help="Which lab, for hosts of one."),
        click.option("--host", help="A host of a lab.  [default: this host; where no bgp backend runs here, all of the lab]"),
        click.option(
            "--socket", type=click.Path(path_type=Path), help="The backend's socket.  [default: looked for in /run/flannel]"
        ),
    ):
        command = option(command)
    return command


as_json = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.group()
def bgp() -> None:
    """See and steer the bgp backend: sessions, routes, announcements."""


@bgp.command()
@of_host
@as_json
def peers(socket: Path | None, host: str | None, name: str, output: str) -> None:
    """Show all sessions, what came in by them, and what went out."""
    rows = [(site.name, peer) for site in sites(socket, host, name) for peer in site.ask({"do": "peers"})]
    if output == "json":
        _echo_json(rows)
        return
    table = [
        (of, each["peer"], each["role"], each["as"], *_state(each), f"{each['accepted']} in, {each['announced']} out", _notes(each))
        for of, each in rows
    ]
    _show(("host", "peer", "role", "AS", "state", "for", "routes", "notes"), table)


@bgp.command()
@of_host
@as_json
def routes(socket: Path | None, host: str | None, name: str, output: str) -> None:
    """Show every route that a neighbour has announced: in use, or why not."""
    rows = [(site.name, route) for site in sites(socket, host, name) for route in site.ask({"do": "routes"})]
    if output == "json":
        _echo_json(rows)
        return
    table = [
        (of, each["prefix"], each["nextHop"], each["peer"], each["asPath"] or "-", "yes" if each["inUse"] else "no", each["why"])
        for of, each in rows
    ]
    _show(("host", "prefix", "next hop", "told by", "AS path", "in use", "why"), table)


@bgp.command()
@of_host
@as_json
@click.argument("prefix", required=False)
def announce(prefix: str | None, socket: Path | None, host: str | None, name: str, output: str) -> None:
    """Announce PREFIX besides the host's subnet; without PREFIX: show what is announced."""
    asked: dict[str, object] = {"do": "announcements"} if prefix is None else {"do": "announce", "prefix": prefix}
    _announced(asked, sites(socket, host, name), output, alone=prefix is not None)


@bgp.command()
@of_host
@as_json
@click.argument("prefix")
def withdraw(prefix: str, socket: Path | None, host: str | None, name: str, output: str) -> None:
    """Announce PREFIX no more."""
    _announced({"do": "withdraw", "prefix": prefix}, sites(socket, host, name), output, alone=True)


@bgp.command()
@of_host
@as_json
@click.option("--off", is_flag=True, help="Take it back.")
@click.argument("address")
def release(address: str, off: bool, socket: Path | None, host: str | None, name: str, output: str) -> None:
    """Let another host announce ADDRESS of this host's subnet, to which its pod has moved (needs AllowHostRoutes)."""
    asked = {"do": "reclaim" if off else "release", "prefix": address}
    _announced(asked, sites(socket, host, name), output, alone=True)


@bgp.command()
@of_host
@click.option("--off", is_flag=True, help="Take traffic again.")
@click.argument("of", metavar="[HOST]", required=False)
def drain(of: str | None, off: bool, socket: Path | None, host: str | None, name: str) -> None:
    """Move traffic away from a host before maintenance: every other way is preferred to those by it (RFC 8326)."""
    for site in _one(sites(socket, of or host, name)):
        done = site.ask({"do": "undrain" if off else "drain"})
        click.echo(
            f"{site.name or 'this host'} {'takes traffic again' if off else 'is drained'}: {done['told']} neighbours are told"
        )


def sites(socket: Path | None, host: str | None, name: str) -> Sequence[Site]:
    """Which hosts to ask; raises ControlError when there is none."""
    if socket is not None:
        return [Site("", partial(ask, socket))]
    if host is None and (here := _sockets()):
        return [Site("" if len(here) == 1 else path.parent.parent.name, partial(ask, path)) for path in here]
    from lab.lab import Lab
    from lab.state import lab_names

    if host is None and name not in lab_names():
        raise ControlError(f"no bgp backend runs on this host, and there is no lab {name!r}: see --socket, --host and --name")
    found = Lab.open(name)
    places = [found.place(host)] if host is not None else [found.place(each.name) for each in found.hosts]
    return [Site(place.name, _asker(place)) for place in places]


def _asker(place: Place) -> Callable[[Mapping[str, object]], Any]:
    return lambda question: place.call(_ask_here, question)


def _sockets() -> list[Path]:
    return sorted(RUN.glob(f"*.state/*/{SOCKET}"))


def _ask_here(question: Mapping[str, object]) -> object:
    """Ask the backend of the host that this thread is on."""
    found = _sockets()
    if not found:
        raise ControlError(f"no bgp backend runs there: no {RUN}/*.state/*/{SOCKET}")
    return ask(found[0], question)


def _one(found: Sequence[Site]) -> Sequence[Site]:
    if len(found) != 1:
        raise click.UsageError(f"for which host? expected one of {', '.join(site.name for site in found)}")
    return found


def _announced(question: Mapping[str, object], found: Sequence[Site], output: str, *, alone: bool) -> None:
    rows = [(site.name, site.ask(question)) for site in (_one(found) if alone else found)]
    if output == "json":
        _echo_json(rows)
        return
    table = [
        (of, *("\n".join(each[key]) or "-" for key in ("subnets", "announced", "released")), _draining(each)) for of, each in rows
    ]
    _show(("host", "subnets", "by hand", "released", ""), table)


def _draining(host: Mapping[str, Any]) -> str:
    return "draining" if host["draining"] else ""


def _state(peer: Mapping[str, Any]) -> tuple[str, str]:
    since = peer["since"]
    return peer["state"], "-" if since is None else f"{since:.0f} s" if since < 600 else f"{since / 60:.0f} min"


def _notes(peer: Mapping[str, Any]) -> str:
    notes = [peer["why"]] if peer["why"] else []
    notes += [f"{peer['stale']} stale"] if peer["stale"] else []
    notes += ["at its limit"] if peer["limited"] else []
    notes += [f"{count} refused: {reason}" for reason, count in peer["refused"].items()]
    return "; ".join([*notes, *([f"bfd {peer['bfd']}"] if peer["bfd"] else [])])


def _echo_json(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """One object a line."""
    for of, each in rows:
        click.echo(json.dumps({**({"host": of} if of else {}), **each}))


def _show(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    whole = any(row[0] for row in rows)
    for heading in headings[0 if whole else 1 :]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row[0 if whole else 1 :]))
    Console(markup=False, emoji=False, highlight=False).print(table)  # what others announced is no markup of ours
