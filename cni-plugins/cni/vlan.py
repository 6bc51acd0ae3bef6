"""vlan: an interface for the frames of one VLAN (IEEE 802.1Q) that its master carries. Keys are the reference's."""

from __future__ import annotations

from collections.abc import Collection

from cni import sublink
from cni.config import INT_MAX
from cni.ledger import Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Result
from cni.spec import CniError, Code
from cni.sublink import Mac, Sublink
from flanneld.linux.sublink import vlan

VLAN_ID_MAX = 4095
"""The reference's; the kernel refuses this one, which IEEE 802.1Q reserves."""


def parse(request: Request) -> Sublink:
    """Raises CniError (2, 7)."""
    vlan_id = request.config.number("vlanId", -INT_MAX) or 0
    if not 0 <= vlan_id <= VLAN_ID_MAX:
        raise CniError(Code.INVALID_CONFIG, f"invalid VLAN ID {vlan_id} (must be between 0 and {VLAN_ID_MAX} inclusive)")
    config = sublink.parse(request, vlan(vlan_id), Mac.OF_MASTER)
    if not config.master:
        raise CniError(Code.INVALID_CONFIG, '"master" field is required', "expected the interface that carries the VLAN")
    return config


def add(request: Request, node: Node) -> Result:
    """Put the pod on the VLAN."""
    return sublink.add(request, node, parse(request))


def delete(request: Request, node: Node) -> None:
    """Take it off the VLAN."""
    sublink.delete(request, node, "vlan")


def check(request: Request, node: Node) -> None:
    """Raise CniError unless the interface is as it was."""
    sublink.check(request, node, parse(request))


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Give back what no valid attachment has."""
    sublink.gc(request, node, valid)


def status(request: Request, node: Node) -> None:
    """Raise CniError (50) if no interface could be made now."""
    sublink.status(request, node, parse(request))
