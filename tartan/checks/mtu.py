"""Sizes: what pods may send is what the way carries, everywhere on this host; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flanneld.kernel import Link
from flanneld.linux import rtnetlink as rt
from flanneld.linux.links import dump_links
from flanneld.linux.message import integer
from flanneld.linux.netlink import Netlink
from flanneld.subnet_env import SubnetEnv
from tartan.checks.finding import Finding, counted, error, ok, warning

BRIDGE = "cni0"


def ports_of(nl: Netlink, bridge: str = BRIDGE) -> tuple[Link | None, list[Link]]:
    """The pods' bridge and the interfaces in it."""
    masters: dict[Link, int] = {}
    for message in dump_links(nl):
        if (link := rt.decode_link(message)) is not None:
            masters[link] = integer(rt.link_attributes(message).get(rt.IFLA_MASTER))
    return _bridge_and_ports(masters, bridge)


def _bridge_and_ports(masters: Mapping[Link, int], bridge: str) -> tuple[Link | None, list[Link]]:
    found = next((link for link in masters if link.name == bridge), None)
    return found, [link for link, master in masters.items() if found is not None and master == found.index]


def check_mtu(env: SubnetEnv, carried: int, bridge: Link | None, ports: Collection[Link], remedy: str) -> list[Finding]:
    """`carried`: bytes that the backend takes from a pod in one packet."""
    found = []
    if env.mtu != carried:
        why = f"subnet.env says {env.mtu} bytes, the way to other hosts carries {carried}"
        found.append(error("mtu", f"{why}: {_harm(env.mtu, carried)}", "cat /run/flannel/subnet.env; ip link", remedy))
    large = sorted(port.name for port in ports if port.mtu > carried)
    if large:
        why = f"{len(large)} of {len(ports)} pods send packets of more than {carried} bytes, which are lost: {_some(large)}"
        found.append(error("mtu", why, f"ip link show master {BRIDGE}", "make these pods anew"))
    if bridge is not None and ports and bridge.mtu < min(carried, env.mtu):
        why = f"{bridge.name} carries {bridge.mtu} bytes, less than its pods may send"
        found.append(warning("mtu", why, f"ip link show {bridge.name}", f"ip link set {bridge.name} mtu {carried}"))
    return found or [ok("mtu", f"{carried} bytes in subnet.env and for {counted(len(ports), 'pod')}")]


def _harm(said: int, carried: int) -> str:
    return "larger packets are lost" if said > carried else "nothing is lost, but packets are smaller than they could be"


def _some(names: list[str], most: int = 5) -> str:
    return " ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
