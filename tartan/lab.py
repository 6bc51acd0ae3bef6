"""`tartan lab`: many hosts on this machine, as namespaces; words in, the `lab` package's calls, tables out."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from lab import LabError
from lab.daemon import health
from lab.lab import Lab, require_root
from lab.place import Place
from lab.routers import sessions
from lab.signals import leave_by_exception
from lab.state import lab_names, release
from lab.topology import Topology, generate, read_topology

if TYPE_CHECKING:
    from rich.table import Table  # rich takes longer to load than most commands to run

    from lab.ping import Echo

F = TypeVar("F", bound=Callable[..., Any])
SHELL = ("bash", "--noprofile", "--norc")
"""A user's own start-up files would replace the prompt, which says where one is."""
WIDEST = 100_000
"""Characters: no table is wider."""


def named(command: F) -> F:
    """Add --name, which every sub-command takes."""
    return click.option("-n", "--name", default="lab", show_default=True, help="Which lab: labs side by side do not touch.")(
        command
    )


def _command(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    if words and not words[0]:
        raise click.BadParameter("the first word is empty, expected a program's name")
    return words


def _ports(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[int, int]:
    """HOST:POD, each from 1 to 65535."""
    found = {}
    for word in words:
        host, colon, pod = word.partition(":")
        if not colon or not all(port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16 for port in (host, pod)):
            raise click.BadParameter(f"{word!r}, expected two ports as 8080:80")
        found[int(host)] = int(pod)
    return found


def _keys(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, object]:
    """KEY=VALUE, the value as JSON."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            found[key] = json.loads(value)
        except ValueError:
            raise click.BadParameter(f"{word!r}, expected a setting as VNI=7 or DirectRouting=true") from None
        if not key or not equals:
            raise click.BadParameter(f"{word!r}, expected a setting as VNI=7")
    return found


@click.group()
def lab() -> None:
    """Many hosts on this machine: namespaces, joined as a topology file describes."""


@lab.command()
@named
@click.option("--hosts", type=int, help="How many hosts: h1, h2...  [default: 3]")
@click.option("--segments", type=int, help="How many L2 networks, with a router between.  [default: 1]")
@click.option("--ipv6", is_flag=True, help="Dual stack.")
@click.option("--backend", help="How pods reach other hosts: vxlan, host-gw, udp, bgp, alloc.  [default: vxlan]")
@click.option("--topology", type=click.Path(path_type=Path), help="A TOML file: network, segments, hosts, routers.")
@click.option("--pods", type=click.IntRange(min=0), default=1, show_default=True, help="Pods on each host: p1, p2...")
def up(
    name: str, hosts: int | None, segments: int | None, ipv6: bool, backend: str | None, topology: Path | None, pods: int
) -> None:
    """Make the hosts, start etcd and flanneld on them, and wait until all are ready."""
    require_root()
    wanted = _topology(topology, hosts, segments, ipv6)
    if backend is not None:
        wanted = wanted.with_backend(backend)
    leave_by_exception()
    made = Lab.up(wanted, name=name, pods=pods)
    try:
        _show_lab(made)
        option = "" if name == "lab" else f" --name {name}"
        click.echo(f"next: tartan lab ping{option} | tartan lab pod {made.hosts[0].name} sh{option} | tartan lab down{option}")
    except BaseException:  # until the last word is said, Ctrl-C means that no lab is wanted
        made.down()
        raise


def _topology(file: Path | None, hosts: int | None, segments: int | None, ipv6: bool) -> Topology:
    if file is None:
        return generate(3 if hosts is None else hosts, segments=1 if segments is None else segments, ipv6=ipv6)
    for option, given in (("--hosts", hosts), ("--segments", segments), ("--ipv6", ipv6 or None)):
        if given is not None:
            raise click.UsageError(f"{option} and --topology exclude each other: {file} says it all")
    return read_topology(file)


@lab.command(name="exec")
@named
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, callback=_command)
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host, or a shell; on a router, `fabric` and `outside` too.

    Put -- before the command if it has options.
    """
    _become(Lab.open(name).place(host), command, host)


@lab.command()
@named
@click.option("-d", "--detach", is_flag=True, help="Run the command in the background; its output goes to a log.")
@click.option(
    "-p", "--publish", multiple=True, callback=_ports, metavar="HOST:POD", help="Lead a TCP port of the host to a new pod's."
)
@click.option("--remove", is_flag=True, help="Take the pod away instead.")
@click.argument("host")
@click.argument("pod")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, callback=_command)
def pod(name: str, detach: bool, publish: dict[int, int], remove: bool, host: str, pod: str, command: tuple[str, ...]) -> None:
    """Run a command in a pod on a host, or a shell; the pod is made if there is none.

    Put -- before the command if it has options.
    """
    if detach and not command:
        raise click.UsageError("--detach needs a command")
    if remove and (command or publish):
        raise click.UsageError("--remove goes without a command and without --publish")
    on = Lab.open(name).host(host)
    if remove:
        on.remove_pod(pod)
        return
    inside = on.pod(pod, publish)
    if not detach:
        _become(inside, command, str(inside))
    log = on.directory / f"pod-{pod}.log"
    try:
        process = inside.start(command, log)
    except OSError as error:
        _cannot_run(str(inside), command, error)
    addresses = " ".join(str(ip.ip) for ip in inside.addresses)
    click.echo(f"{inside} {addresses}: process {process.pid}, output in {log}")


@lab.command()
@named
def ping(name: str) -> None:
    """Ping every pod from every pod; exit 1 if any does not answer."""
    from lab.ping import ping_all

    pods = [pod for host in Lab.open(name).hosts for pod in host.pods()]
    if len(pods) < 2:
        raise LabError(
            f"lab {name!r} has {len(pods)} pods, expected two or more to ping each other; `tartan lab pod HOST NAME` makes one"
        )
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an exception would wait until the last pod has been tried
    echoes = ping_all(pods)
    _show(_ping_table(echoes), whole=True)
    failed = [echo for echo in echoes if echo.rtt_s is None]
    for echo in failed:
        click.echo(f"{echo.source} -> {echo.destination} {echo.ip.ip}: {echo.failure}")
    sys.exit(1 if failed else 0)


@lab.command()
@named
def status(name: str) -> None:
    """Show a lab's hosts, their pod subnets, flanneld and pods; and its routers."""
    _show_lab(Lab.open(name))


@lab.command()
@named
@click.option("--to", required=True, help="The backend type: vxlan, host-gw, udp, bgp, alloc.")
@click.option("--key", "keys", multiple=True, metavar="KEY=VALUE", callback=_keys, help="A setting of it, as in flannel's Backend.")
def migrate(name: str, to: str, keys: dict[str, object]) -> None:
    """Change over to another backend under running pods, host by host; no packet is lost."""
    from flanneld.backend import load_backend
    from flanneld.config import parse_network

    wanted = {"Type": to, **keys}
    load_backend(parse_network(json.dumps({"Network": "10.244.0.0/16", "Backend": wanted})))  # or nobody could serve it
    found = Lab.open(name)
    began = time.monotonic()
    for host in found.migrate(wanted):
        click.echo(f"{host.name} speaks {to} after {(time.monotonic() - began) * 1000:.0f} ms")
    click.echo("every host speaks it; what the former backend had is taken away when nobody has needed it for 10 s")


@lab.command()
@click.option("--all", "every", is_flag=True, help="Every lab of this machine.")
@named
def down(every: bool, name: str) -> None:
    """End all that runs in a lab and take it away, however it was left; nothing else is touched."""
    require_root()
    if every and click.get_current_context().get_parameter_source("name") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--all and --name exclude each other")
    for one in lab_names() if every else [name]:
        click.echo(f"lab {one!r} is {'down' if release(one) else 'not up'}")


def _become(place: Place, command: Sequence[str], where: str) -> NoReturn:
    try:
        place.become(command or SHELL, {} if command else {"PS1": f"{where}:$PWD# "})
    except OSError as error:
        _cannot_run(where, command or SHELL, error)


def _cannot_run(where: str, command: Sequence[str], error: OSError) -> NoReturn:
    click.echo(f"tartan: {where}: cannot run {shlex.join(command)}: {error.strerror}", err=True)
    sys.exit(127 if isinstance(error, FileNotFoundError) else 126)  # as a shell says it


def _show(table: Table, *, whole: bool = False) -> None:
    """Print it; if `whole`, at its full width, instead of what fits the terminal."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement

    table.box = box.SIMPLE
    console = Console()
    if whole:
        unbounded = console.options.update(max_width=WIDEST)
        console.width = max(console.width, Measurement.get(console, unbounded, table).maximum)
    console.print(table)


def _show_lab(lab: Lab) -> None:
    _show(_hosts_table(lab))
    if lab.routers:
        _show(_routers_table(lab))


def _routers_table(lab: Lab) -> Table:
    from rich.table import Table

    table = Table("router", "AS", "addresses", "bird")
    for spec, router in zip(lab.topology.routers, lab.routers, strict=True):
        state = sessions(router)
        table.add_row(router.name, str(spec.asn), "\n".join(map(str, spec.addresses)), str(state) if state else "not running")
    return table


def _hosts_table(lab: Lab) -> Table:
    from rich.table import Table

    table = Table(title=f"lab {lab.name}: etcd at {lab.etcd_url}", title_justify="left")
    for heading in ("host", "address", "flanneld", "pod subnet", "pods"):
        table.add_column(heading, overflow="fold")
    for spec, host in zip(lab.topology.hosts, lab.hosts, strict=True):
        env = host.subnet_env()
        pods = "\n".join(f"{pod.name} {ip.ip}" for pod in host.pods() for ip in pod.addresses)
        subnets = "\n".join(map(str, env.subnets)) if env else "none yet"
        table.add_row(host.name, "\n".join(str(ip.ip) for ip in spec.addresses), health(host).value, subnets, pods)
    return table


def _ping_table(echoes: Sequence[Echo]) -> Table:
    from rich.table import Table

    cells: dict[tuple[str, str], list[str]] = {}
    for echo in echoes:
        text = "[red]failed[/red]" if echo.rtt_s is None else f"{echo.rtt_s * 1000:.2f} ms"
        cells.setdefault((str(echo.source), str(echo.destination)), []).append(text)
    names = list(dict.fromkeys(str(echo.source) for echo in echoes))
    table = Table("from \\ to", *names)
    for source in names:
        table.add_row(source, *("\n".join(cells.get((source, name), ["-"])) for name in names))
    return table
