"""A pod's interface on top of another one, its master: what macvlan, ipvlan and vlan share; must not know which kinds there are.

The master is the host's or, with linkInContainer, the pod's. The interface is born in the pod under a name that nobody has, since
the kernel looks for the name on the host too, where there may be another eth0; a failure takes it away again.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum

from cni import ipam
from cni.config import INT_MAX
from cni.interface import check_interface, configure, new_mac, pod_routes, requested_mac
from cni.ipam_config import parse_dns
from cni.ledger import Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Dns, Interface, Result
from cni.spec import CniError, Code, Command
from cni.veth import require_pod
from flanneld.kernel import KernelError, Link, RouteKind
from flanneld.linux import rtnetlink as rt
from flanneld.linux import sublink
from flanneld.linux.links import link, link_at, lower_of, present_link, remove_link, set_link
from flanneld.linux.message import attributes, integer
from flanneld.linux.netlink import Netlink


class Mac(Enum):
    """Which MAC the pod's interface gets."""

    OWN = "the one that is asked for, else one of its own"
    AS_ASKED = "the one that is asked for, else its master's"
    OF_MASTER = "its master's"


@dataclass(frozen=True, slots=True)
class Sublink:
    """The configuration, checked."""

    kind: sublink.Kind
    mac: Mac
    master: str
    """Empty: that of the default route."""
    mtu: int
    """Bytes; 0: the master's."""
    in_container: bool
    """The master is in the pod."""
    dns: Dns | None


def parse(request: Request, kind: sublink.Kind, mac: Mac) -> Sublink:
    """All keys but those that only the kind has; raises CniError (2, 7)."""
    told = request.config
    told.ignore("ipam", *(("mac",) if mac is not Mac.OF_MASTER else ()))
    if request.caller:  # flannel tells every delegate whether to masquerade, as the reference does
        told.ignore("ipMasq")
    config = Sublink(
        kind,
        mac,
        told.text("master") or _chained_master(request),
        told.number("mtu", -INT_MAX) or 0,
        told.flag("linkInContainer"),
        parse_dns(told.part("dns")) if told.get("dns") is not None else None,
    )
    request.finish_config()
    return config


def parse_mode(request: Request, kind: str, modes: Collection[str]) -> str:
    """The `mode`, the first one when it is absent; raises CniError (7)."""
    mode = request.config.text("mode") or next(iter(modes))
    if mode not in modes:
        raise CniError(Code.INVALID_CONFIG, f"unknown {kind} mode: {mode!r}", f"expected one of {', '.join(modes)}")
    return mode


def _chained_master(request: Request) -> str:
    """The only interface of the plugin before this one, if there was one."""
    if request.call.command is not Command.ADD or request.prev_result is None:
        return ""
    interfaces = request.prev_result.interfaces
    if len(interfaces) != 1 or not interfaces[0].name:
        raise CniError(Code.INVALID_CONFIG, "master: got none", "expected one, or a prevResult with a single named interface")
    return interfaces[0].name


def add(request: Request, node: Node, config: Sublink) -> Result:
    """Make the interface in the pod and set it up; the result is the chain's with it."""
    netns, name = require_pod(request, node), request.call.ifname
    with node.inside(netns) as inside:
        if link(inside, name) is not None:
            raise CniError(Code.FAILED, f"interface {name} already exists in {request.call.netns}")
    with _addresses(request, node) as given:
        if ipam.ipam_type(request) and not given.ips:
            raise CniError(Code.FAILED, "IPAM plugin returned missing IP config")
        with node.holding(request):  # nothing that would stay without the pod, but its address is ours as long as this stands
            request.alive()
            interface = _make(request, node, config, given)
        return _with_interface(request, config, given, interface)


@contextmanager
def _addresses(request: Request, node: Node) -> Iterator[Result]:
    """What IPAM gives; without IPAM, what the plugin before this one had for a purpose such as this."""
    if ipam.ipam_type(request) or request.prev_result is None:
        with ipam.allocated(request, node) as given:
            yield given
    else:
        yield replace(request.prev_result, interfaces=())


def _with_interface(request: Request, config: Sublink, given: Result, interface: Interface) -> Result:
    former = request.prev_result or Result()
    place = len(former.interfaces)
    ours = given.on_interface(place)
    if ipam.ipam_type(request):
        ours = replace(ours, ips=(*former.ips, *ours.ips), routes=(*former.routes, *ours.routes))
    dns = given.dns if config.dns is None else config.dns
    return replace(ours, interfaces=(*former.interfaces, interface), dns=dns)


def _make(request: Request, node: Node, config: Sublink, given: Result) -> Interface:
    """Raises CniError, KernelError, and has made nothing then."""
    netns, name = request.open_netns(), request.call.ifname
    host = node.netlink
    with node.inside(netns) as inside:
        nl = inside if config.in_container else host
        master = _master(nl, config)
        remove_link(inside, temporary_name(request.key))  # of a call that died
        mac = _chosen_mac(request, config, given)
        index = _create(nl, inside, config, master, mac, None if config.in_container else netns, temporary_name(request.key))
        try:
            set_link(inside, index, name=name)
            configure(inside, name, given, pod_routes(given))
            if mac is not None:
                with suppress(KernelError):  # it has it; old kernels call that a conflict
                    set_link(inside, index, mac=mac)  # which lets the kernel announce the addresses
            made = present_link(inside, name)
        except BaseException:
            _remove_at(inside, index)
            raise
    return Interface(name, made.mac, request.call.netns, made.mtu)


def temporary_name(key: Key) -> str:
    """Of an attachment's interface before it has its own: always the same, and no other attachment's."""
    return "tmp" + hashlib.sha256(str(key).encode()).hexdigest()[:12]


def _master(nl: Netlink, config: Sublink) -> Link:
    name = config.master or _default_interface(nl)
    found = link(nl, name)
    if found is None:
        raise CniError(Code.INVALID_CONFIG, f"master {name}: no such interface", f"expected one of the {_whose(config)}")
    if not 0 <= config.mtu <= found.mtu:
        raise CniError(Code.INVALID_CONFIG, f"invalid MTU {config.mtu}, must be [0, master MTU({found.mtu})]")
    return found


def _whose(config: Sublink) -> str:
    return "pod's, because of linkInContainer" if config.in_container else "host's"


def _default_interface(nl: Netlink) -> str:
    """The interface of the best default route, IPv4's if there is one; raises CniError."""
    for family in (4, 6):
        with suppress(KernelError):  # ENOENT: nobody has put a route into the table yet
            found = [rt.decode_route(message) for message in nl.dump(rt.route_dump(rt.FAMILY[family]))]
            routes = [route for route in found if route and not route.destination.prefixlen and route.kind is RouteKind.UNICAST]
            if routes and (by := link_at(nl, min(routes, key=lambda route: route.metric).device)):
                return by.name
    raise CniError(Code.FAILED, "no default route interface found", "expected one, or the key master")


def _chosen_mac(request: Request, config: Sublink, given: Result) -> str | None:
    """None: what the kernel gives it."""
    match config.mac:
        case Mac.OWN:
            return new_mac(request, given)
        case Mac.AS_ASKED:
            return requested_mac(request)
        case Mac.OF_MASTER:
            return None


def _create(nl: Netlink, inside: Netlink, config: Sublink, master: Link, mac: str | None, netns: int | None, name: str) -> int:
    request = sublink.new_sublink(name, config.kind, master.index, mtu=config.mtu, mac=mac, netns=netns)
    try:
        nl.change(f"{config.kind.name} on {master.name}", request)
    except KernelError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise _unknown(config.kind, Code.FAILED) from error
        raise
    return present_link(inside, name).index


def _unknown(kind: sublink.Kind, code: Code) -> CniError:
    return CniError(code, f"{kind.name} is not supported by this kernel", f"unknown device type, expected the module {kind.name}")


def _remove_at(nl: Netlink, index: int) -> None:
    found = link_at(nl, index)
    if found is not None:
        remove_link(nl, found.name)


def delete(request: Request, node: Node, kind: str) -> None:
    """Take the interface away, then its addresses."""
    try:
        if request.netns is not None:
            with suppress(CniError), node.inside(require_pod(request, node)) as inside:
                for name in (temporary_name(request.key), request.call.ifname):
                    found = link(inside, name)
                    if found is not None and found.kind == kind:
                        remove_link(inside, name)
    finally:
        ipam.free(request, node)
    node.release_of(request.key, request.plugin)


def check(request: Request, node: Node, config: Sublink) -> None:
    """Raise CniError unless interface, settings, addresses and routes are as they were."""
    ipam.check(request, node)
    host, name = node.netlink, request.call.ifname
    with node.inside(require_pod(request, node)) as inside:
        found = check_interface(inside, request)
        if found.kind != config.kind.name:
            raise CniError(Code.FAILED, f"interface {name} is of kind {found.kind!r}, expected {config.kind.name!r}")
        present = sublink.settings(inside, name)
        wanted = {setting: integer(value) for setting, value in attributes(config.kind.info).items()}
        if not wanted.items() <= present.items():
            raise CniError(Code.FAILED, f"{config.kind.name} mode or settings of {name} are {present}, expected {wanted}")
        if config.master and lower_of(inside, name) != _master(inside if config.in_container else host, config).index:
            raise CniError(Code.FAILED, f"the master of {name} is another one, expected {config.master}")


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Give back the addresses of attachments that are no more; their interfaces went with their namespaces."""
    node.release_invalid(request, valid)
    ipam.gc(request, node, valid)


def status(request: Request, node: Node, config: Sublink) -> None:
    """Raise CniError (50) if the kernel has no such interfaces, the host no such master, or IPAM no address."""
    if not sublink.is_known(node.netlink, config.kind.name):
        raise _unknown(config.kind, Code.NOT_AVAILABLE)
    if not config.in_container:
        try:
            _master(node.netlink, config)
        except CniError as error:
            raise CniError(Code.NOT_AVAILABLE, error.message, error.details) from error
    ipam.status(request, node)
