"""The administrator's CNI networks, as networks to run containers in; must not know what their plugins do.

They are looked up in the directory each time: who puts a file there needs to tell nobody. Flannel's overlay is `pods`, whatever its
file calls it.
"""

from __future__ import annotations

import hashlib
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from cni.conflist import Conflist, ConflistError, read_directory
from flanneld.log import Log, Once
from runtime.clock import text_of
from runtime.networks.network import DEFAULT, PREDEFINED, Network, Pool

PODS = "pods"
SUBNET_ENV = Path("/run/flannel/subnet.env")

log = Log(__name__)
said = Once(log)


def read_cni_networks(directory: Path) -> dict[str, tuple[Network, Conflist]]:
    """The directory's networks by name; of two of one name the first counts. Never raises: what makes no sense is logged once."""
    try:
        conflists, wrong = read_directory(directory)
    except ConflistError as error:
        conflists, wrong = [], [error]
    for why in wrong:
        said.warning(str(why), "CNI configuration not read", why=why)
    found: dict[str, tuple[Network, Conflist]] = {}
    overlay = next((each for each in conflists if _is_flannel(each)), None)
    names = {each.name for each in conflists}
    for conflist in conflists:
        if conflist.name in (DEFAULT, *PREDEFINED):
            said.warning(conflist.name, "CNI network is hidden by a predefined one", network=conflist.name)
            continue
        aliases = (PODS,) if conflist is overlay and PODS not in names else ()
        found.setdefault(conflist.name, (_network(conflist, directory, aliases), conflist))
    return found


def _is_flannel(conflist: Conflist) -> bool:
    return any(plugin.type == "flannel" for plugin in conflist.plugins)


def _network(conflist: Conflist, directory: Path, aliases: tuple[str, ...]) -> Network:
    pools = _pools(conflist)
    return Network(
        id=hashlib.sha256(f"cni {conflist.name}".encode()).hexdigest(),  # the same for every engine and after each start
        name=conflist.name,
        created=text_of(directory.stat().st_mtime_ns),
        driver="cni",
        enable_ipv6=any(":" in pool.subnet for pool in pools),
        pools=pools,
        user_subnets=True,
        attachable=True,
        aliases=aliases,
    )


def _pools(conflist: Conflist) -> tuple[Pool, ...]:
    """As far as the file says, or flanneld has written down."""
    if _is_flannel(conflist):
        return _lease()
    ipam: Any = conflist.plugins[0].values.get("ipam")
    told = ipam if isinstance(ipam, dict) else {}
    flat = [told, *(each for group in told.get("ranges") or () if isinstance(group, list) for each in group)]
    return tuple(
        Pool(subnet=str(each["subnet"]), gateway=str(each.get("gateway") or ""))
        for each in flat
        if isinstance(each, dict) and each.get("subnet")
    )


def _lease() -> tuple[Pool, ...]:
    """This host's part of the overlay. Of `subnet.env` two lines are of interest, whose values are gateways in their subnets."""
    try:
        lines = SUBNET_ENV.read_text().splitlines()
    except OSError:
        return ()
    values = [
        value for line in lines for key, _, value in [line.partition("=")] if key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
    ]
    return tuple(pool for value in values for pool in [_lease_pool(value)] if pool is not None)


def _lease_pool(value: str) -> Pool | None:
    try:
        gateway = ip_interface(value)
    except ValueError:
        return None
    return Pool(subnet=str(gateway.network), gateway=str(gateway.ip))
