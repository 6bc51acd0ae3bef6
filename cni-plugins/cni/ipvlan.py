"""ipvlan: an interface with its master's MAC and addresses of its own, for networks that allow one MAC a port.

Keys are the reference's. Without IPAM it takes over the addresses of the plugin before it; without any address there is no ADD.
"""

from __future__ import annotations

from collections.abc import Collection

from cni import ipam, sublink
from cni.ledger import Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Result
from cni.spec import CniError, Code
from cni.sublink import Mac, Sublink
from flanneld.linux.sublink import IPVLAN_MODES, ipvlan


def parse(request: Request) -> Sublink:
    """Raises CniError (2, 7)."""
    return sublink.parse(request, ipvlan(sublink.parse_mode(request, "ipvlan", IPVLAN_MODES)), Mac.OF_MASTER)


def add(request: Request, node: Node) -> Result:
    """Let the pod share the master."""
    config = parse(request)
    if not ipam.ipam_type(request) and not (request.prev_result and request.prev_result.ips):
        raise CniError(Code.INVALID_CONFIG, "ipam.type: got none", "expected an IPAM plugin, or a prevResult with addresses")
    return sublink.add(request, node, config)


def delete(request: Request, node: Node) -> None:
    """Take the interface away."""
    sublink.delete(request, node, "ipvlan")


def check(request: Request, node: Node) -> None:
    """Raise CniError unless the interface is as it was."""
    sublink.check(request, node, parse(request))


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Give back what no valid attachment has."""
    sublink.gc(request, node, valid)


def status(request: Request, node: Node) -> None:
    """Raise CniError (50) if no interface could be made now."""
    sublink.status(request, node, parse(request))
