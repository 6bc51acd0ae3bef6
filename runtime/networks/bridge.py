"""A bridge network as CNI plugins make it, and its bridge on the host; must not know containers.

The bridge is there from the network's creation on, as Docker's: services of the host listen on its address. docker0 alone comes
with its first container.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from ipaddress import ip_interface
from typing import Any

from cni.conflist import Conflist, parse_conflist
from flanneld.linux.links import LONGEST_NAME, add_address, addresses, ensure_bridge, link, remove_link
from flanneld.linux.netlink import Netlink
from flanneld.linux.pod import ensure_sysctl, mac_of
from runtime.errors import Forbidden, InvalidParameter
from runtime.networks.addresses import ranges
from runtime.networks.network import Network

VERSION = "1.0.0"


def cni_name(network: Network) -> str:
    """What plugins call it: readable in `tartan cni list`, and never another network's, though the name may come again."""
    return f"{network.name[:64]}.{network.id[:12]}"


def conflist_of(network: Network, requested: Collection[str] = ()) -> Conflist:
    """The chain of plugins for one attachment, which asks for these addresses. Default routes are left to the sandbox."""
    families = [version for version in (4, 6) if any(pool.network.version == version for pool in network.pools)]
    sets = [[r for p in network.pools if p.network.version == version for r in ranges(p, requested)] for version in families]
    bridge: dict[str, Any] = {
        "type": "bridge",
        "bridge": network.bridge,
        "isGateway": True,
        "ipMasq": not network.internal and network.flag("bridge.enable_ip_masquerade", True),
        "hairpinMode": True,
        "mtu": network.mtu,
        "capabilities": {"ips": True, "mac": True},
        "ipam": {"type": "host-local", "ranges": sets},
    }
    policy = "same-bridge" if network.flag("bridge.enable_icc", True) else "isolated"
    plugins = [bridge, {"type": "firewall", "ingressPolicy": policy}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    document = {"cniVersion": VERSION, "name": cni_name(network), "plugins": plugins}
    return parse_conflist(json.dumps(document).encode())


def check_options(network: Network) -> None:
    """Raise InvalidParameter for an option that makes no sense."""
    name = network.bridge
    if not name or len(name.encode()) > LONGEST_NAME or "/" in name or name in (".", "..") or name.split() != [name]:
        raise InvalidParameter(f"invalid bridge name: got {name!r}, expected an interface's, {LONGEST_NAME} bytes at most")
    for option, default in (("bridge.enable_icc", True), ("bridge.enable_ip_masquerade", True)):
        network.flag(option, default)
    _ = network.mtu


def is_there(name: str) -> bool:
    """Whether somebody has such a bridge already; raises Forbidden when it is another kind of interface, FlanneldError."""
    with Netlink() as netlink:
        found = link(netlink, name)
    if found is not None and found.kind != "bridge":
        raise Forbidden(f"bridge {name} cannot be made: there is a {found.kind or 'hardware'} interface of that name")
    return found is not None


def make_bridge(network: Network) -> None:
    """See to it that the network's bridge is there, up, with the gateways' addresses. Raises FlanneldError, OSError."""
    gateways = [ip_interface((pool.gateway, pool.network.prefixlen)) for pool in network.pools if pool.gateway]
    with Netlink() as netlink:
        made = ensure_bridge(netlink, network.bridge, mtu=network.mtu, mac=mac_of(gateways[0]) if gateways else None)
        present = addresses(netlink, made.index)
        for gateway in gateways:
            if gateway.version == 6:
                ensure_sysctl(f"ipv6/conf/{network.bridge}/disable_ipv6", "0")
            if gateway not in present:
                add_address(netlink, made.index, gateway)


def remove_bridge(network: Network) -> None:
    """Take the bridge away, if it is there and was made for the network. Raises FlanneldError."""
    with Netlink() as netlink:
        found = link(netlink, network.bridge) if network.owns_bridge else None
        if found is not None and found.kind == "bridge":
            remove_link(netlink, network.bridge)
