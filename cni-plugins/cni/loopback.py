"""loopback: `lo` of the pod up; its addresses are the result, unless it is chained behind others."""

from __future__ import annotations

from collections.abc import Collection

from cni.ledger import Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Interface, Ip, Result
from cni.spec import CniError, Code
from flanneld.linux.links import addresses, link, set_link
from flanneld.linux.pod import LOOPBACK_INDEX

NAME = "lo"
MAC = "00:00:00:00:00:00"


def add(request: Request, node: Node) -> Result:
    """Set it up. CNI_IFNAME is no matter."""
    request.finish_config()
    with node.inside(request.open_netns()) as inside:
        set_link(inside, LOOPBACK_INDEX, up=True)
        if request.prev_result is not None:
            return request.prev_result
        ips = tuple(Ip(address, interface=0) for address in addresses(inside, LOOPBACK_INDEX))
    return Result((Interface(NAME, MAC, request.call.netns),), ips)


def delete(request: Request, node: Node) -> None:
    """Set it down, if the pod is there."""
    if request.netns is not None:
        with node.inside(request.netns) as inside:
            set_link(inside, LOOPBACK_INDEX, up=False)


def check(request: Request, node: Node) -> None:
    """Raise CniError unless it is up."""
    with node.inside(request.open_netns()) as inside:
        found = link(inside, NAME)
        if found is None or not found.up:
            raise CniError(Code.FAILED, f"interface {NAME} is down, expected it up")


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Nothing is kept."""


def status(request: Request, node: Node) -> None:
    """Always."""
