"""Address ranges of host-local, and which address of them comes next: pure; must not know who holds what, or where that is written.

A range set gives an attachment one address, out of one or more ranges of one family; the ranges of a configuration never overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from itertools import islice

from cni.config import Section
from cni.result import IPAddress, IPNetwork, address_of
from cni.spec import CniError, Code

LOOK_AHEAD = 16
"""Free addresses among which one that has rested is looked for: the next in turn has rested longest, but for chance."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `first` to `last`, both included, without the gateway."""

    subnet: IPNetwork
    first: IPAddress
    last: IPAddress
    gateway: IPAddress

    def __contains__(self, ip: IPAddress) -> bool:
        return ip.version == self.first.version and int(self.first) <= int(ip) <= int(self.last)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class RangeSet:
    """Ranges that are one to whoever wants an address."""

    ranges: tuple[Range, ...]

    def of(self, ip: IPAddress) -> Range | None:
        """The range that the address is in."""
        return next((each for each in self.ranges if ip in each), None)

    def after(self, last: IPAddress | None) -> Iterator[tuple[IPAddress, Range]]:
        """Every address once, beginning behind `last`, round and round: an address that was given back rests as long as can be."""
        start = next((place for place, each in enumerate(self.ranges) if last is not None and last in each), None)
        if start is None or last is None:
            order, head, tail = list(self.ranges), 0, 0
        else:
            order = [*self.ranges[start:], *self.ranges[: start + 1]]
            head = int(last) - int(order[0].first) + 1
            tail = head
        for place, each in enumerate(order):
            size = int(each.last) - int(each.first) + 1
            returned = start is not None and place == len(order) - 1
            for offset in range(head if place == 0 else 0, tail if returned else size):
                ip = each.first + offset
                if ip != each.gateway:
                    yield ip, each

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))


def choose(
    wanted: RangeSet, last: IPAddress | None, free: Callable[[IPAddress], bool], rested: Callable[[IPAddress], bool]
) -> tuple[IPAddress, Range]:
    """The next free address that has rested, else the next free one; raises CniError when there is none."""
    first = None
    for candidate in islice(((ip, within) for ip, within in wanted.after(last) if free(ip)), LOOK_AHEAD):
        if rested(candidate[0]):
            return candidate
        first = first or candidate
    if first is None:
        raise CniError(Code.TRY_LATER, f"no IP addresses available in range set: {wanted}")
    return first


@lru_cache(maxsize=256)
def _strict_network(text: str) -> IPNetwork:
    return ip_network(text)


def parse_range(told: Section) -> Range:
    """One range object; raises CniError (7)."""
    subnet = told.parsed("subnet", _strict_network, "a network without host bits, as 10.1.0.0/16")
    if subnet is None:
        told.wrong("subnet", None, "a network, as 10.1.0.0/16")
    if subnet.num_addresses < 4:
        told.wrong("subnet", str(subnet), "a network of 4 addresses at least: too small to allocate from")
    end = subnet.broadcast_address - 1 if subnet.version == 4 else subnet.broadcast_address
    first = told.parsed("rangeStart", address_of, "an IP address") or subnet.network_address + 1
    last = told.parsed("rangeEnd", address_of, "an IP address") or end
    gateway = told.parsed("gateway", address_of, "an IP address") or subnet.network_address + 1
    for key, ip in (("rangeStart", first), ("rangeEnd", last)):
        if ip not in subnet or ip == subnet.network_address or int(ip) > int(end):
            told.wrong(key, str(ip), f"an address of {subnet}")
    if int(first) > int(last):
        told.wrong("rangeStart", str(first), f"none above rangeEnd {last}")
    return Range(subnet, first, last, gateway)


def parse_range_set(told: Sequence[Section], where: str) -> RangeSet:
    """A list of range objects; raises CniError (7)."""
    ranges = tuple(map(parse_range, told))
    if not ranges:
        raise CniError(Code.INVALID_CONFIG, f"{where}: got an empty range set, expected one range at least")
    if len({each.subnet.version for each in ranges}) > 1:
        raise CniError(Code.INVALID_CONFIG, f"{where}: mixed address families in a range set: {', '.join(map(str, ranges))}")
    return RangeSet(ranges)


def check_apart(sets: Sequence[RangeSet]) -> None:
    """Raise CniError (7) if an address would be in two ranges."""
    ranges = [each for each_set in sets for each in each_set.ranges]
    for place, one in enumerate(ranges):
        for other in ranges[place + 1 :]:
            if one.first in other or other.first in one:
                raise CniError(Code.INVALID_CONFIG, f"ranges {one} and {other} overlap, expected each address in one")
