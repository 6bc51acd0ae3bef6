"""A veth pair between a pod and its host: names, making, removal; must not know what the host's end is for."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cni.interface import configure
from cni.ledger import HeldLink, Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Result
from cni.spec import CniError, Code
from flanneld.kernel import KernelError
from flanneld.linux.links import Port, add_veth, is_running, link, remove_link, set_link
from flanneld.linux.pod import PodRoute

CARRIER_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair, as it is to be."""

    host: str
    """Name of the host's end."""
    pod: str
    """Name of the pod's end."""
    host_mac: str
    pod_mac: str
    mtu: int
    """Bytes; 0: the kernel's default."""


def host_name(key: Key) -> str:
    """The host's end of an attachment: always the same name, and no other attachment's."""
    return "veth" + hashlib.sha256(str(key).encode()).hexdigest()[:11]


def require_pod(request: Request, node: Node) -> int:
    """The pod's namespace; raises CniError when there is none, or when it is the host's own and the runtime does not insist."""
    netns = request.open_netns()
    if node.is_own(netns) and not request.call.netns_override:
        path = request.call.netns
        raise CniError(Code.ENVIRONMENT, f"CNI_NETNS: got {path!r}, the host's own namespace, expected a pod's")
    return netns


def make(request: Request, node: Node, pair: Pair, port: Port | None = None) -> None:
    """Make the pair, the peer in the pod; what a call that died left in its place goes first. Raises CniError, KernelError."""

    def attempt() -> None:
        add_veth(
            node.netlink,
            pair.host,
            pair.pod,
            peer_netns=request.open_netns(),
            mtu=pair.mtu,
            mac=pair.host_mac,
            peer_mac=pair.pod_mac,
            port=port,
        )

    try:
        attempt()
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        if link(node.netlink, pair.host) is not None:
            remove_link(node.netlink, pair.host)
        elif not node.settle():  # the pod's last container may have had one that is on its way out
            raise CniError(Code.FAILED, f"container veth name ({pair.pod}) already exists in {request.call.netns}") from error
        attempt()


def set_up(
    request: Request,
    node: Node,
    pair: Pair,
    given: Result,
    routes: Sequence[PodRoute],
    *,
    detect_duplicates: bool = False,
    subnet_routes: bool = True,
) -> None:
    """Address the pod's end and tell the neighbours, once the pair carries packets. Raises CniError, KernelError."""
    with node.inside(request.open_netns()) as inside:
        index = configure(inside, pair.pod, given, routes, detect_duplicates=detect_duplicates, subnet_routes=subnet_routes)
        _await_carrier(node, pair.host)
        if given.ips:
            # The MAC it has already: the kernel announces the addresses, which may have been another pod's a minute ago.
            set_link(inside, index, mac=pair.pod_mac)


def _await_carrier(node: Node, name: str) -> None:
    """A bridge forwards for a port some time after its carrier comes; to ask for the link hastens it, since Linux 6.9."""
    give_up_at = time.monotonic() + CARRIER_PATIENCE_S
    while not is_running(node.netlink, name) and time.monotonic() < give_up_at:
        time.sleep(0.001)


def remove_unknown(request: Request, node: Node) -> None:
    """A pod's interface of whose ADD we know nothing, because the reference did it, goes too: its maker cannot be asked."""
    if request.netns is None or node.is_own(request.netns):
        return
    here = (request.call.container_id, request.call.ifname)
    if any((record.key.container_id, record.key.ifname) == here and record.of(HeldLink) for record in node.ledger.records()):
        return  # ours, perhaps of another network, whose ADD was refused for that reason
    with node.inside(request.netns) as inside:
        found = link(inside, request.call.ifname)
        if found is not None and found.kind == "veth":
            remove_link(inside, request.call.ifname)
