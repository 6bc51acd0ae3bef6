"""Which subnets and addresses a network may have: pure but for `networks_of_host`; must not know how they are given out."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from flanneld import FlanneldError
from flanneld.linux.links import addresses, links
from flanneld.linux.netlink import Netlink
from flanneld.linux.rtnetlink import decode_route, route_dump
from runtime.config import EndpointSettings
from runtime.errors import Forbidden, InvalidParameter
from runtime.networks.network import IPNetwork, Network, Pool, PoolRequest

IPAddress: TypeAlias = IPv4Address | IPv6Address

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def networks_of_host() -> list[IPNetwork]:
    """Where this host's main table leads and what its interfaces are in, default routes and link-local networks aside."""
    found: set[IPNetwork] = set()
    with Netlink() as netlink:
        for family in FAMILIES.values():
            with suppress(FlanneldError):  # an empty table, a kernel without IPv6
                routes = map(decode_route, netlink.dump(route_dump(family)))
                found |= {route.destination for route in routes if route is not None}
        for link in links(netlink):
            found |= {address.network for address in addresses(netlink, link.index)}
    return sorted((each for each in found if each.prefixlen and not each.is_link_local), key=str)


def overlapping(wanted: IPNetwork, others: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first of the others that has an address in common."""
    for other in others:
        if other.version == wanted.version and wanted.overlaps(other):
            return other
    return None


def choose_subnet(pools: Sequence[tuple[str, int]], taken: Collection[IPNetwork]) -> IPNetwork:
    """The first subnet of the pools that overlaps nothing; raises InvalidParameter when there is none."""
    for candidate in _candidates(pools):
        if overlapping(candidate, taken) is None:
            return candidate
    raise InvalidParameter("all predefined address pools have been fully subnetted")


def _candidates(pools: Sequence[tuple[str, int]]) -> Iterator[IPNetwork]:
    for text, length in pools:
        yield from ip_network(text).subnets(new_prefix=length)


def unique_local(network_id: str) -> IPv6Network:
    """A /64 of RFC 4193, whose global ID follows from the network's id: with 56 bits drawn no two are the same."""
    digest = hashlib.sha256(network_id.encode()).digest()
    return IPv6Network((b"\xfd" + digest[:7] + bytes(8), 64))


def first_host(subnet: IPNetwork) -> IPAddress:
    """The gateway where nobody says which."""
    return subnet.network_address + 1


def checked_pool(asked: PoolRequest) -> Pool:
    """What is asked for, with a gateway; raises InvalidParameter with what is wrong with it."""
    subnet = _subnet(asked.subnet)
    gateway = _inside(subnet, asked.gateway, "gateway") if asked.gateway else first_host(subnet)
    if asked.ip_range:
        within = _subnet(asked.ip_range)
        if within.version != subnet.version or not within.subnet_of(subnet):  # type: ignore[arg-type]  # of one family
            raise _wrong(f"no matching subnet for range {asked.ip_range}")
    auxiliary = {name: str(_inside(subnet, text, "aux-address")) for name, text in asked.auxiliary_addresses.items()}
    return Pool(subnet=str(subnet), gateway=str(gateway), ip_range=asked.ip_range, auxiliary=auxiliary)


def _subnet(text: str) -> IPNetwork:
    try:
        subnet = ip_network(text, strict=False)
    except ValueError as error:
        raise _wrong(f"invalid subnet {text}: invalid CIDR block notation") from error
    if str(subnet) != text and text.partition("/")[0] != str(subnet.network_address):
        raise _wrong(f"invalid subnet {text}: it should be {subnet}")
    if subnet.num_addresses < 4:
        raise _wrong(f"invalid subnet {text}: it has no room for a gateway and a container")
    return subnet


def _inside(subnet: IPNetwork, text: str, what: str) -> IPAddress:
    try:
        address = ip_address(text.partition("/")[0])
    except ValueError as error:
        raise _wrong(f"invalid {what} {text}") from error
    if address not in subnet:
        raise _wrong(f"no matching subnet for {what} {text}")
    return address


def _wrong(why: str) -> InvalidParameter:
    return InvalidParameter(f"invalid network config:\n{why}")


def refuse_overlap(pools: Iterable[Pool], others: Iterable[IPNetwork]) -> None:
    """Raise Forbidden when a subnet that was asked for is another network's."""
    taken = list(others)
    for pool in pools:
        if overlapping(pool.network, taken) is not None:
            raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
        taken.append(pool.network)


def requested_addresses(settings: EndpointSettings) -> list[str]:
    """The addresses that an endpoint asks for, IPv4 first."""
    config = settings.ipam_config
    return [] if config is None else [text for text in (config.ipv4_address, config.ipv6_address) if text]


def address_errors(network: Network, settings: EndpointSettings) -> list[str]:
    """What is wrong with the addresses that are asked for in a network, in Docker's words."""
    wrong, subnets = [], [pool.network for pool in network.pools]
    for text in requested_addresses(settings):
        try:
            address = ip_address(text)
        except ValueError:
            wrong.append(f"invalid IP address: {text}")
            continue
        if network.driver == "cni":
            continue  # the plugin knows its subnets
        if not any(address in subnet for subnet in subnets):
            wrong.append(f"no configured subnet contains IP address {text}")
        elif not network.user_subnets:
            wrong.append("user specified IP address is supported only when connecting to networks with user configured subnets")
    return wrong


def ranges(pool: Pool, requested: Collection[str]) -> list[dict[str, str]]:
    """The pool as host-local's ranges: without what is somebody else's, and with an address outside of `ip_range` if asked for."""
    subnet, within = pool.network, ip_network(pool.ip_range or pool.subnet)
    first, last = int(within.network_address), int(within.broadcast_address)
    if within.network_address == subnet.network_address:
        first += 1
    if within.version == 4 and within.broadcast_address == subnet.broadcast_address:
        last -= 1
    taken = sorted({int(ip_address(text)) for text in pool.auxiliary.values()} - {int(ip_address(pool.gateway))})
    spans, start = [], first
    for other in (*(each for each in taken if first <= each <= last), last + 1):
        if start < other:
            spans.append((start, other - 1))
        start = other + 1
    wanted = [int(ip_address(text)) for text in requested if ip_address(text) in subnet]
    spans += [(each, each) for each in wanted if not any(low <= each <= high for low, high in spans)]
    address = type(subnet.network_address)
    common = {"subnet": pool.subnet} | ({"gateway": pool.gateway} if pool.gateway else {})
    return [{**common, "rangeStart": str(address(low)), "rangeEnd": str(address(high))} for low, high in spans]
