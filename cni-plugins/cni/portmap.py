"""The plugin `portmap`: ports of the host lead to the pod; chained only, and its result is the one before.

A mapping is an element of a map in our packet filter table, whatever `backend` says: who asked for iptables has the same ports, but
finds no rules of iptables.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from cni.config import Section
from cni.ledger import HeldElement, Key, Record
from cni.node import Node, is_alive
from cni.packet_elements import PROTOCOLS, hairpin, hairpin_all, port_mapping
from cni.packet_rules import MAPPED
from cni.plugin import Request
from cni.result import IPAddress, IPInterface, Result
from cni.spec import CniError, Code
from flanneld.kernel import KernelError
from flanneld.linux.conntrack import HostPort, forget_connections
from flanneld.linux.links import links
from flanneld.linux.pod import SYSCTL, ensure_sysctl
from flanneld.linux.rtnetlink import decode_next_hop, route_query
from flanneld.log import Log, Once

log = Log(__name__)
said = Once(log)

MARK_BIT = MAPPED.bit_length() - 1
"""The reference's default for `markMasqBit`."""
PORT_MAX = 65535
LOOPBACK6 = ip_address("::1")
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A port of the host, and the pod's port that it leads to."""

    host_port: int
    pod_port: int
    protocol: str
    host_ip: IPAddress | None = None
    """None: each address of the host."""


@dataclass(frozen=True, slots=True)
class Portmap:
    """The plugin's configuration."""

    mappings: tuple[Mapping, ...]
    snat: bool
    """Who would be answered past the host shows with the host's address."""
    masq_all: bool
    """Everybody does."""


def parse(request: Request) -> Portmap:
    """Read the configuration; raises CniError (2, 7)."""
    told = request.config
    if told.choice("backend", "", "nftables", "iptables") == "iptables":
        said.warning("backend", "ports are mapped by nftables, not iptables", network=request.network)
    _refuse_iptables_keys(told)
    config = Portmap(
        tuple(_mapping(part) for part in request.runtime.sections("portMappings")),
        told.flag("snat", True),
        told.flag("masqAll"),
    )
    request.finish_config()
    return config


def _refuse_iptables_keys(told: Section) -> None:
    """Rules and marks of iptables that the administrator named: we could only pretend."""
    bit, chain = told.get("markMasqBit"), told.text("externalSetMarkChain")
    if bit is not None and chain:
        raise CniError(Code.INVALID_CONFIG, "cannot specify both externalSetMarkChain and markMasqBit")
    if bit is not None and (not isinstance(bit, int) or isinstance(bit, bool) or not 0 <= bit < 32):
        told.wrong("markMasqBit", bit, "a whole number between 0 and 31")
    if bit not in (None, MARK_BIT):
        _unsupported("markMasqBit", f"packets of mapped ports carry bit {MARK_BIT} between two chains of nftables, no other")
    if chain:
        _unsupported("externalSetMarkChain", "a chain of iptables cannot be called from nftables")
    for key in ("conditionsV4", "conditionsV6"):
        if told.texts(key):
            _unsupported(key, "conditions are written for iptables, and ports are mapped by nftables")


def _unsupported(key: str, why: str) -> None:
    raise CniError(Code.UNSUPPORTED_FIELD, f"unsupported field {key}", why)


def _mapping(told: Section) -> Mapping:
    host_port, pod_port = _port(told, "hostPort", "host port"), _port(told, "containerPort", "container port")
    protocol = told.text("protocol", "tcp").lower()
    if protocol not in PROTOCOLS:
        told.wrong("protocol", told.get("protocol"), f"one of {', '.join(PROTOCOLS)}")
    return Mapping(host_port, pod_port, protocol, told.parsed("hostIP", ip_address, "an IP address of the host, or nothing"))


def _port(told: Section, key: str, words: str) -> int:
    value = told.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= PORT_MAX:
        told.wrong(key, value, f"a {words} from 1 to {PORT_MAX}")
    return int(value)


def elements_for(config: Portmap, request: Request) -> tuple[HeldElement, ...]:
    """What the packet filter has to know; raises CniError (7) when a port of the host leads to two."""
    pods = pod_addresses(request.require_prev_result(), request.call.ifname)
    elements = list(dict.fromkeys(element for pod in pods for element in _mapped(config, pod)))
    slots = [(element.set, element.key) for element in elements]
    if twice := [element.key for element in elements if slots.count((element.set, element.key)) > 1]:
        raise CniError(Code.INVALID_CONFIG, f"runtimeConfig.portMappings: host port {twice[0]} is mapped twice")
    return tuple(elements)


def _mapped(config: Portmap, pod: IPInterface) -> Iterator[HeldElement]:
    """Of one address of the pod; a mapping for addresses of the other family is none."""
    mappings = [each for each in config.mappings if each.host_ip is None or each.host_ip.version == pod.version]
    if any(each.host_ip == LOOPBACK6 for each in mappings):
        said.warning("loopback", "a port of ::1 leads nowhere: IPv6 sends nothing from there to others")
        mappings = [each for each in mappings if each.host_ip != LOOPBACK6]
    for each in mappings:
        host_ip = None if each.host_ip is None or each.host_ip.is_unspecified else each.host_ip
        yield port_mapping(each.protocol, host_ip, each.host_port, pod.ip, each.pod_port)
    if mappings and config.snat:
        yield from hairpin_all(pod) if config.masq_all else hairpin(pod)


def pod_addresses(result: Result, ifname: str) -> list[IPInterface]:
    """The pod's first address of each family, on that interface or on one that the result does not tell of."""
    found: dict[int, IPInterface] = {}
    for ip in result.ips:
        known = None if ip.interface is None or not 0 <= ip.interface < len(result.interfaces) else result.interfaces[ip.interface]
        if known is None or (known.sandbox and known.name == ifname):
            found.setdefault(ip.address.version, ip.address)
    return list(found.values())


def add(request: Request, node: Node) -> Result:
    """Map the ports; a second ADD replaces what the first one mapped."""
    config = parse(request)
    result = request.require_prev_result()
    elements = elements_for(config, request)
    former = node.ledger.record(request.key, request.plugin)
    if former is not None and set(former.elements) - set(elements):
        node.release(former)
    if elements:
        record = _hold(request, node, elements)
        try:
            node.table.put(elements)
            _open_loopback(node, elements, config)
            _forget_udp(node, elements)
        except BaseException:
            node.release(record)
            raise
    return result


def _hold(request: Request, node: Node, elements: Sequence[HeldElement]) -> Record:
    """Write down what we map, unless a port is another living pod's; raises CniError (11)."""
    while True:
        with node.ledger.lock:
            rivals = list(_rivals(request, node, elements))
            if not rivals:
                return node.hold(request, *elements)
        present = {link.name for link in links(node.netlink)}
        for rival, port in rivals:
            theirs = [record for record in node.ledger.records(rival.key.network) if record.key == rival.key]
            if is_alive(theirs, present.__contains__):
                raise CniError(Code.TRY_LATER, f"host port {port} is taken", f"it leads to {rival.key}")
            node.release(rival)


def _rivals(request: Request, node: Node, elements: Sequence[HeldElement]) -> Iterator[tuple[Record, str]]:
    """Who holds one of the ports, and which."""
    wanted = {(element.set, element.key) for element in elements if element.value}
    for record in node.ledger.records():
        if record.plugin == request.plugin and record.key != request.key:
            yield from ((record, element.key) for element in record.elements if (element.set, element.key) in wanted)


def _open_loopback(node: Node, elements: Sequence[HeldElement], config: Portmap) -> None:
    """Let 127.0.0.1 lead to the pod: by its interface, packets of loopback addresses may then come and go. Raises CniError."""
    pod = next((element.value.split(" . ")[0] for element in elements if _is_on_loopback(element)), "")
    if not pod or not config.snat:
        return
    try:
        hop = decode_next_hop(node.netlink.get(f"route to {pod}", route_query(ip_address(pod))))
    except KernelError as error:
        if error.errno in NO_ROUTE:
            return
        raise
    setting = f"ipv4/conf/{socket.if_indextoname(hop.device)}/route_localnet"
    try:
        ensure_sysctl(setting, "1")
    except OSError as error:
        with suppress(OSError), open(f"{SYSCTL}/ipv4/conf/all/route_localnet") as all_interfaces:
            if all_interfaces.read().strip() == "1":
                return
        why = os.strerror(error.errno or errno.EIO).lower()
        raise CniError(Code.FAILED, f"cannot set net/{setting}, without which 127.0.0.1 does not lead to the pod", why) from error


def _is_on_loopback(element: HeldElement) -> bool:
    return element.set == "ports4" or (element.set == "ip_ports4" and element.key.startswith("127."))


def _forget_udp(node: Node, elements: Collection[HeldElement]) -> None:
    """Who kept sending to a port goes where it leads now: a UDP connection, to the kernel, lasts while somebody sends."""
    ports = [_host_port(element) for element in elements if element.value and " udp ." in f" {element.key}"]
    if ports:
        with node.table.netfilter() as netfilter:
            forget_connections(node.netlink, netfilter, PROTOCOLS["udp"], ports)


def _host_port(element: HeldElement) -> HostPort:
    *address, _, port = element.key.split(" . ")
    return HostPort(4 if element.set.endswith("4") else 6, int(port), ip_address(address[0]) if address else None)


def delete(request: Request, node: Node) -> None:
    """Take the mappings away, whatever the configuration says by now."""
    record = node.ledger.record(request.key, request.plugin)
    if record is not None:
        node.release(record)
        with suppress(KernelError, OSError):  # such connections end by themselves
            _forget_udp(node, record.elements)


def check(request: Request, node: Node) -> None:
    """Raise CniError unless each port leads to the pod."""
    missing = node.table.missing(elements_for(parse(request), request))
    if missing:
        raise CniError(Code.FAILED, "packet filter elements are gone", ", ".join(f"{each.key} of {each.set}" for each in missing))


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Take away what no valid attachment has."""
    node.release_invalid(request, valid)


def status(request: Request, node: Node) -> None:
    """Raise CniError (50) if no port can be mapped."""
    parse(request)
    node.table.probe()
