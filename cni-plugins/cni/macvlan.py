"""macvlan: an interface with a MAC of its own on one of the host's, so that the pod is on the host's network.

Keys are the reference's. What this one does otherwise: the MAC follows from the pod's address, and an ADD that fails leaves no
interface in the pod. As everywhere with macvlan, the host itself and its pods do not reach each other by the master.
"""

from __future__ import annotations

from collections.abc import Collection

from cni import sublink
from cni.ledger import Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Result
from cni.sublink import Mac, Sublink
from flanneld.linux.sublink import MACVLAN_MODES, macvlan


def parse(request: Request) -> Sublink:
    """Raises CniError (2, 7)."""
    mode = sublink.parse_mode(request, "macvlan", MACVLAN_MODES)
    kind = macvlan(mode, request.config.number("bcqueuelen") or 0)
    # With passthru the interface is its master to the outside: a MAC that it is given becomes the master's too.
    return sublink.parse(request, kind, Mac.AS_ASKED if mode == "passthru" else Mac.OWN)


def add(request: Request, node: Node) -> Result:
    """Put the pod on the master's network."""
    return sublink.add(request, node, parse(request))


def delete(request: Request, node: Node) -> None:
    """Take it off that network."""
    sublink.delete(request, node, "macvlan")


def check(request: Request, node: Node) -> None:
    """Raise CniError unless the interface is as it was."""
    sublink.check(request, node, parse(request))


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Give back what no valid attachment has."""
    sublink.gc(request, node, valid)


def status(request: Request, node: Node) -> None:
    """Raise CniError (50) if no interface could be made now."""
    sublink.status(request, node, parse(request))
