"""`tartan cleanup`: finds what flanneld or Go flannel left on this host, asks, and removes it; must not know what it is."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from cni.spec import CniError
from flanneld import FlanneldError
from flanneld.daemon import require_net_admin
from flanneld.flags import Options
from flanneld.linux.netlink import Netlink
from flanneld.membership import former_configs, recall_former
from flanneld.subnet_env import SubnetEnv, SubnetEnvError, read
from tartan.leftovers import Leftover
from tartan.leftovers.files import files
from tartan.leftovers.kernel import devices, routes
from tartan.leftovers.pods import pods
from tartan.leftovers.programs import programs
from tartan.leftovers.rules import iptables_chains, nft_tables
from tartan.leftovers.speakers import speakers
from tartan.running import is_claimed, running_here


class RunsHere(FlanneldError):
    """A flanneld runs, which would make everything anew."""


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only list what there is to remove.")
@click.option("--force", is_flag=True, help="Even while a flanneld runs here, which will make some of it anew.")
@click.option("--pods", "with_pods", is_flag=True, help="What CNI plugins made for pods too; running pods lose their network.")
@click.option(
    "--subnet-file",
    envvar="FLANNELD_SUBNET_FILE",
    type=click.Path(path_type=Path),
    default=Path(Options().subnet_file),
    show_default=True,
    help="flanneld's subnet.env, which tells the pod network.",
)
def cleanup(yes: bool, dry_run: bool, force: bool, with_pods: bool, subnet_file: Path) -> None:
    """Remove all that flanneld or Go flannel made on this host; asks first.

    That is devices, routes, firewall rules and files. Nothing of another program's, and nothing in etcd, is touched.
    """
    require_net_admin()
    if not (force or dry_run):
        require_none_running()
    with Netlink() as nl:
        found = leftovers(nl, subnet_file, with_pods=with_pods)
        if not found:
            click.echo("nothing to remove")
            return
        _show(found)
        if dry_run:
            return
        if not yes:
            click.confirm(f"Remove {'all of it' if len(found) > 1 else 'it'}?", abort=True)
        sys.exit(0 if remove(found) else 1)


def require_none_running() -> None:
    """Raise RunsHere if there is a flanneld, ours or Go's, in this network namespace."""
    pids = " ".join(str(one.pid) for one in running_here())
    if pids or is_claimed():
        which = f"process {pids}" if pids else "in a process that cannot be seen from here"
        raise RunsHere(f"a flanneld runs on this host ({which}): stop it first, or it makes everything anew (or give --force)")


def leftovers(nl: Netlink, subnet_file: Path, *, with_pods: bool) -> list[Leftover]:
    """All that there is, in the order in which it is to go: what sends packets first, files last."""
    env = pod_networks(subnet_file)
    found = [*speakers(), *programs(nl), *routes(nl, env), *devices(nl), *nft_tables(), *iptables_chains()]
    return [*found, *(pods(nl) if with_pods else ()), *files(subnet_file)]


def pod_networks(subnet_file: Path) -> SubnetEnv | None:
    """What subnet.env says; None, with a word about it, when it says nothing: then Go flannel's routes cannot be told."""
    try:
        env = read(subnet_file)
    except SubnetEnvError as error:
        click.echo(f"tartan: {error}: routes of Go flannel's host-gw, if there are any, cannot be recognised", err=True)
        return None
    # With alloc, an administrator's routes to peers look as host-gw's do.
    return None if [config.backend_type for config in former_configs(recall_former(subnet_file))[:1]] == ["alloc"] else env


def remove(found: Iterable[Leftover]) -> bool:
    """Remove one thing after the other, whatever becomes of those before; false if any could not be removed."""
    whole = True
    for leftover in found:
        try:
            leftover.remove()
        except (CniError, FlanneldError, OSError) as error:
            click.echo(f"tartan: {leftover.what}: not removed: {error}", err=True)
            whole = False
        else:
            click.echo(f"removed {leftover.what}")
    return whole


def _show(found: Iterable[Leftover]) -> None:
    click.echo("found on this host:")
    for leftover in found:
        click.echo(f"  {leftover.what}" + (f"\n      known by: {leftover.known_by}" if leftover.known_by else ""))
