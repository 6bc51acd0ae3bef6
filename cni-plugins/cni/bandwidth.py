"""bandwidth: limits on what a pod receives and sends, after another plugin has made its veth. Keys are the reference's.

What the pod receives waits in a token bucket on the host's end of the veth. What it sends is received there, where nothing can
wait: it takes a turn through the token bucket of an IFB device of the pod's own. A kernel without IFB, mirred or any fitting
classifier has the token bucket on the pod's own interface instead, inside its namespace, where whoever has CAP_NET_ADMIN in the pod
can take it away. What this one does otherwise: a burst is never less than a frame, which would let no such frame pass at all, an
ADD that fails leaves nothing, and DEL takes the limits off the veth too.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from cni.config import Section
from cni.ledger import HeldLink, Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Interface, Result
from cni.spec import CniError, Code
from cni.veth import require_pod
from flanneld.kernel import KernelError, Link
from flanneld.linux import rtnetlink as rt
from flanneld.linux import tc
from flanneld.linux.links import link, link_at, lower_of, new_link, present_link, remove_link
from flanneld.linux.message import u32
from flanneld.linux.netlink import Netlink

BURST_BITS_MAX = 8 * (2**32 - 1) - 1
BITS_MAX = 2**63 - 1
KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
ETHERNET_HEADER = 18
"""Bytes, with a VLAN tag."""
LACKING = (errno.EOPNOTSUPP, errno.ENOENT)
"""How the kernel says that it has no such kind of device, action, classifier."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One direction's, in bits a second and in bits."""

    rate: int
    burst: int

    def bucket(self, mtu: int) -> tc.TokenBucket:
        """For an interface of that MTU."""
        return tc.TokenBucket(self.rate // 8, max(self.burst // 8, mtu + ETHERNET_HEADER))


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The configuration, checked; directions are the pod's."""

    ingress: Limit | None
    egress: Limit | None


UNLIMITED = Bandwidth(None, None)


def parse(request: Request) -> Bandwidth:
    """Raises CniError (2, 7). The runtime's limits are for a configuration that says nothing of any."""
    configured, told = _parse_limits(request.config), request.config.given(*KEYS)
    request.finish_config()
    return configured if told else _parse_limits(request.runtime.part("bandwidth"))


def _parse_limits(told: Section) -> Bandwidth:
    return Bandwidth(_parse_limit(told, *KEYS[:2]), _parse_limit(told, *KEYS[2:]))


def _parse_limit(told: Section, rate_key: str, burst_key: str) -> Limit | None:
    rate, burst = told.number(rate_key, 0, BITS_MAX) or 0, told.number(burst_key, 0, BITS_MAX) or 0
    if burst and not rate:
        told.wrong(rate_key, rate, "a rate: if burst is set, rate must also be set")
    if rate and not burst:
        told.wrong(burst_key, burst, "a burst: if rate is set, burst must also be set")
    if burst > BURST_BITS_MAX:
        told.wrong(burst_key, burst, f"{BURST_BITS_MAX} bits at most: burst cannot be more than 4GB")
    if 0 < rate < 8:
        told.wrong(rate_key, rate, "8 bits a second at least")
    return Limit(rate, burst) if rate else None


def add(request: Request, node: Node) -> Result:
    """Limit what there is a limit for; the result has the IFB device too, if there is one now."""
    config = parse(request)
    result = request.require_prev_result()
    if config == UNLIMITED:
        return result
    require_pod(request, node)
    if not result.interfaces:
        raise CniError(Code.INVALID_CONFIG, "no interfaces provided", "expected a prevResult with the host's end of a veth")
    host = _host_end(request, node)
    if host is None or host.name not in (each.name for each in result.interfaces if not each.sandbox):
        raise CniError(Code.INVALID_CONFIG, "no veth peer of container interface found in host ns", "expected it in prevResult")
    held = (HeldLink(ifb_name(request.key), tied=False),) if config.egress else ()
    with node.holding(request, *held), ExitStack() as undo:
        if config.ingress is not None:
            tc.add_token_bucket(node.netlink, host.index, config.ingress.bucket(host.mtu))
            undo.callback(tc.remove_token_bucket, node.netlink, host.index)
        made = _limit_egress(request, node, host, config.egress) if config.egress else ()
        undo.pop_all()
    return replace(result, interfaces=(*result.interfaces, *made))


def _host_end(request: Request, node: Node) -> Link | None:
    """The host's end of the veth whose other end is the pod's interface; None when there is none."""
    with node.inside(request.open_netns()) as inside:
        pod = link(inside, request.call.ifname)
        index = lower_of(inside, request.call.ifname)
    host = link_at(node.netlink, index) if pod is not None and index else None
    # The index could be one of a third namespace, and another interface's here.
    return host if host and pod and host.kind == pod.kind == "veth" and lower_of(node.netlink, host.name) == pod.index else None


def ifb_name(key: Key) -> str:
    """The IFB device of an attachment: always the same name, and no other attachment's."""
    return "bwp" + hashlib.sha256(str(key).encode()).hexdigest()[:12]


def _reference_ifb_name(key: Key) -> str:
    """As the reference calls it, for DEL of what the reference had added."""
    return "bwp" + hashlib.sha512((key.network + key.container_id).encode()).hexdigest()[:12]


def _limit_egress(request: Request, node: Node, host: Link, limit: Limit) -> tuple[Interface, ...]:
    for method in EGRESS_METHODS:
        try:
            return method(request, node, host, limit)
        except KernelError as error:
            if error.errno not in LACKING or method is EGRESS_METHODS[-1]:
                raise
    return ()


def through_ifb(request: Request, node: Node, host: Link, limit: Limit) -> tuple[Interface, ...]:
    """What the host's end receives waits in an IFB device; returns that. Raises KernelError, and has made nothing then."""
    nl, name = node.netlink, ifb_name(request.key)
    remove_link(nl, name)  # of a call that died
    try:
        nl.change(f"ifb {name}", new_link(name, "ifb", u32(rt.IFLA_MTU, host.mtu), up=True))
        ifb = present_link(nl, name)
        tc.add_token_bucket(nl, ifb.index, limit.bucket(host.mtu))
        tc.redirect_received(nl, host.index, ifb.index)
    except BaseException:
        remove_link(nl, name)
        raise
    return (Interface(name, ifb.mac, mtu=ifb.mtu),)


def inside_pod(request: Request, node: Node, host: Link, limit: Limit) -> tuple[Interface, ...]:
    """What the pod sends waits in the pod. Raises KernelError."""
    with node.inside(request.open_netns()) as inside:
        tc.add_token_bucket(inside, present_link(inside, request.call.ifname).index, limit.bucket(host.mtu))
    return ()


EGRESS_METHODS: Sequence[Callable[[Request, Node, Link, Limit], tuple[Interface, ...]]] = (through_ifb, inside_pod)
"""The better ones first; the next one is for a kernel that lacks what one needs."""


def delete(request: Request, node: Node) -> None:
    """Take the limits away, if we had set some, and their interface is still there."""
    if request.netns is not None and node.ledger.record(request.key, request.plugin) is not None:
        with suppress(CniError, KernelError):
            _unlimit(request, node)
    node.release_of(request.key, request.plugin)
    remove_link(node.netlink, _reference_ifb_name(request.key))


def _unlimit(request: Request, node: Node) -> None:
    host = _host_end(request, node)
    if host is not None:
        tc.remove_token_bucket(node.netlink, host.index)
        tc.remove_ingress(node.netlink, host.index)
        with node.inside(request.open_netns()) as inside:
            tc.remove_token_bucket(inside, lower_of(node.netlink, host.name))


def check(request: Request, node: Node) -> None:
    """Raise CniError unless the limits are as configured."""
    config = parse(request)
    request.require_prev_result()
    if config == UNLIMITED:
        return
    require_pod(request, node)
    host = _host_end(request, node)
    if host is None:
        raise CniError(Code.FAILED, "no veth peer of container interface found in host ns")
    if config.ingress is not None:
        _check_bucket(node.netlink, host, config.ingress.bucket(host.mtu))
    if config.egress is None:
        return
    ifb = link(node.netlink, ifb_name(request.key))
    if ifb is None:
        with node.inside(request.open_netns()) as inside:
            _check_bucket(inside, present_link(inside, request.call.ifname), config.egress.bucket(host.mtu))
        return
    _check_bucket(node.netlink, ifb, config.egress.bucket(host.mtu))
    if ifb.index not in tc.redirections(node.netlink, host.index):
        raise CniError(Code.FAILED, f"what {host.name} receives does not go through {ifb.name}")


def _check_bucket(nl: Netlink, limited: Link, wanted: tc.TokenBucket) -> None:
    found = tc.token_bucket(nl, limited.index)
    if found is None:
        raise CniError(Code.FAILED, f"interface {limited.name} has no limit, expected {wanted}")
    if (found.rate, found.limit) != (wanted.rate, wanted.limit):
        raise CniError(Code.FAILED, f"interface {limited.name} has {found}, expected {wanted}")


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Remove the IFB devices of attachments that are no more; their other limits went with their veths."""
    node.release_invalid(request, valid)


def status(request: Request, node: Node) -> None:
    """The configuration makes sense."""
    parse(request)
