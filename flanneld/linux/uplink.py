"""Which interface peers reach this host by, in flannel's order (its pkg/ipmatch); must not know what goes over it.

Each `--iface`, then each `--iface-regex`, then `--iface-can-reach`: the first that names an interface with an address of every
family wanted. With none of them the interface that owns `--public-ip`, and without that the one of the default route.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import TypeAlias

from flanneld import FlanneldError
from flanneld.backend import Uplink
from flanneld.flags import Options
from flanneld.kernel import IPInterface, KernelError, Link, Route, RouteKind
from flanneld.lease import Family, IPAddress, family_of
from flanneld.linux import links
from flanneld.linux import rtnetlink as rt
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.netlink import Netlink


class UplinkError(FlanneldError):
    """No interface is what the flags ask for."""


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of this host with the addresses that other hosts could send to."""

    link: Link
    addresses: tuple[IPInterface, ...]
    """The better ones first (see links.addresses), no loopback ones."""
    fixed: tuple[IPAddress, ...] = ()
    """Addresses that the flags chose; they go before the better ones."""

    def address(self, family: Family) -> IPInterface:
        """The address to use; raises UplinkError when there is none of the family."""
        found = [address for address in self.addresses if address.version == family]
        if not found:
            raise UplinkError(f"interface {self.link.name} has no IPv{family} address")
        return min(found, key=lambda address: address.ip not in self.fixed)

    def __str__(self) -> str:
        return f"{self.link.name} ({', '.join(map(str, self.addresses)) or 'no address'})"


Host: TypeAlias = Sequence[Interface]
Search: TypeAlias = Callable[[Host], Interface]


def find_uplink(nl: Netlink, options: Options, families: Sequence[Family]) -> Uplink:
    """The interface that the flags ask for, and its addresses; raises UplinkError, saying what this host has."""
    host = [Interface(link, _reachable(links.addresses(nl, link.index))) for link in links.links(nl)]
    refused = []
    for search in _searches(nl, options, families):
        try:
            return _uplink(search(host), options, families)
        except UplinkError as error:
            refused.append(str(error))
    raise UplinkError(f"{'; '.join(refused)}; this host has {', '.join(map(str, host))}")


def follow_uplink(nl: Netlink, options: Options, present: Uplink, families: Sequence[Family]) -> Uplink:
    """What the uplink has become, for these families: the same interface, whatever its name and MTU, while it has its addresses.

    Without them, what the flags ask for now; and if there is no such thing, for the interface may have another name than they say,
    the same interface with the addresses that it has. Raises UplinkError, KernelError.
    """
    link = links.link_at(nl, present.index)
    same = None if link is None else _same(link, _reachable(links.addresses(nl, link.index)), options, present, families)
    kept = {address.ip for address in present.addresses if family_of(address.ip) in families}
    if same is not None and kept <= {address.ip for address in same.addresses}:
        return same
    try:
        return _lasting(find_uplink(nl, options, families), present)
    except UplinkError:
        if same is not None:
            return same
        raise


def _same(
    link: Link, addresses: tuple[IPInterface, ...], options: Options, present: Uplink, families: Sequence[Family]
) -> Uplink | None:
    """The interface with the addresses that it had, as far as it has them; None if it has none of some family that could last."""
    try:
        chosen = Interface(link, addresses, tuple(address.ip for address in present.addresses))
        return _lasting(_uplink(chosen, options, families), present)
    except UplinkError:
        return None


def _lasting(found: Uplink, present: Uplink) -> Uplink:
    """Raise UplinkError for a link-local address in the place of another: the interface is just being addressed anew."""
    for address in found.addresses:
        before = present.address(family_of(address.ip))
        if address.is_link_local and before is not None and not before.is_link_local:
            raise UplinkError(f"interface {found.name} has only the link-local address {address.ip} now, had {before.ip}")
    return found


def _reachable(addresses: Sequence[IPInterface]) -> tuple[IPInterface, ...]:
    return tuple(address for address in addresses if not address.is_loopback)


def _uplink(chosen: Interface, options: Options, families: Sequence[Family]) -> Uplink:
    addresses = tuple(chosen.address(family) for family in families)
    public_ips = tuple(options.public(family) or address.ip for family, address in zip(families, addresses, strict=True))
    return Uplink(chosen.link.name, chosen.link.index, chosen.link.mtu, addresses, public_ips)


def _searches(nl: Netlink, options: Options, families: Sequence[Family]) -> Iterator[Search]:
    """What to try, in order."""
    public_ips = [ip for family in families if (ip := options.public(family)) is not None]
    if options.iface or options.iface_regex or options.iface_can_reach:
        yield from (partial(_named, text) for text in options.iface)
        yield from (partial(_matching, pattern, families) for pattern in options.iface_regex)
        if options.iface_can_reach:
            yield partial(_towards, nl, options.iface_can_reach)
    elif public_ips:
        yield partial(_owning_public, public_ips)
    else:
        yield partial(_of_default_route, nl, families)


def _named(text: str, host: Host) -> Interface:
    """By name, or by an IP of it."""
    try:
        return _owning(ip_address(text), host)
    except ValueError:
        found = next((interface for interface in host if interface.link.name == text), None)
    if found is None:
        raise UplinkError(f"iface {text}: no such interface")
    return found


def _owning(ip: IPAddress, host: Host) -> Interface:
    for interface in host:
        if ip in (address.ip for address in interface.addresses):
            return Interface(interface.link, interface.addresses, (ip,))
    raise UplinkError(f"no interface has the address {ip}")


def _owning_public(ips: Sequence[IPAddress], host: Host) -> Interface:
    try:
        owners = [_owning(ip, host) for ip in ips]
    except UplinkError as error:
        raise UplinkError(f"{error} (public-ip); behind a NAT, expected iface too") from error
    if owners[0].link != owners[-1].link:
        raise UplinkError(f"{ips[0]} is on {owners[0].link.name} but {ips[-1]} on {owners[-1].link.name}, expected one interface")
    return Interface(owners[0].link, owners[0].addresses, tuple(ips))


def _matching(pattern: re.Pattern[str], families: Sequence[Family], host: Host) -> Interface:
    """By an IP that the pattern is found in, then by a name."""
    for interface in host:
        ips = (address.ip for address in interface.addresses if address.version in families)
        if matches := tuple(ip for ip in ips if pattern.search(str(ip))):
            return Interface(interface.link, interface.addresses, matches)
    for interface in host:
        if pattern.search(interface.link.name):
            return interface
    raise UplinkError(f"iface-regex {pattern.pattern!r}: no IP and no interface matches")


def _towards(nl: Netlink, ip: IPAddress, host: Host) -> Interface:
    """By what `ip route get` says."""
    try:
        hop = LinuxKernel(nl).next_hop(ip)
    except KernelError as error:
        raise UplinkError(f"iface-can-reach {ip}: {error}") from error
    if hop.local:
        raise UplinkError(f"iface-can-reach {ip}: expected another host, got an address of this one")
    return _at(hop.device, host)


def _of_default_route(nl: Netlink, families: Sequence[Family], host: Host) -> Interface:
    devices = [_default_device(nl, family, host) for family in families]
    if devices[0].link != devices[-1].link:
        names = f"{devices[0].link.name} for IPv4 and {devices[-1].link.name} for IPv6"
        raise UplinkError(f"the default route is by {names}, expected one interface, or iface")
    return devices[0]


def _default_device(nl: Netlink, family: Family, host: Host) -> Interface:
    default = [route for route in _routes(nl, family) if not route.destination.prefixlen and route.kind is RouteKind.UNICAST]
    if not default:
        raise UplinkError(f"there is no IPv{family} default route, expected one, or iface")
    best = min(default, key=lambda route: route.metric or rt.DEFAULT_METRIC[family])
    if not best.device:
        raise UplinkError(f"the IPv{family} default route has several next hops, expected iface")
    return _at(best.device, host)


def _routes(nl: Netlink, family: Family) -> list[Route]:
    """The main table."""
    try:
        found = map(rt.decode_route, nl.dump(rt.route_dump(rt.FAMILY[family])))
        return [route for route in found if route is not None]
    except KernelError as error:
        if error.errno == errno.ENOENT:  # nobody has put a route into it yet
            return []
        raise


def _at(index: int, host: Host) -> Interface:
    found = next((interface for interface in host if interface.link.index == index), None)
    if found is None:
        raise UplinkError(f"interface {index} is gone, expected it to stay")
    return found
