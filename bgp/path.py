"""A way to a prefix, as one peer announced it; must not know how it was told, nor what is made of it.

RFC 4271 §4.3 and §5 (attributes), RFC 1997 (communities), RFC 4456 (reflection).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import NewType, TypeAlias

from flanneld.lease import IPAddress, IPNetwork

Asn = NewType("Asn", int)
"""An autonomous system's number, 1 to 4294967295 (RFC 6793)."""
Community: TypeAlias = tuple[int, int]
"""Two halves of 16 bits each, written `65535:0`."""

GRACEFUL_SHUTDOWN: Community = (65535, 0)
"""RFC 8326: the sender is about to leave; every other way is better."""
NO_EXPORT: Community = (65535, 65281)
NO_ADVERTISE: Community = (65535, 65282)
DEFAULT_LOCAL_PREF = 100


class Origin(IntEnum):
    """RFC 4271 §5.1.1; the lower the better."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


@dataclass(frozen=True, slots=True)
class AsPath:
    """RFC 4271 §5.1.2: whose networks the announcement came through, the last first."""

    sequence: tuple[Asn, ...] = ()
    """The AS_SEQUENCE segments, one after the other."""
    sets: tuple[frozenset[Asn], ...] = ()
    """The AS_SET segments: what an aggregate was made of, in no order."""

    @property
    def length(self) -> int:
        """For the choice of the best path: a set counts as one (§9.1.2.2 a)."""
        return len(self.sequence) + len(self.sets)

    def __contains__(self, asn: object) -> bool:
        return asn in self.sequence or any(asn in members for members in self.sets)

    def __str__(self) -> str:
        parts = [*map(str, self.sequence), *("{" + ",".join(map(str, sorted(members))) + "}" for members in self.sets)]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What one UPDATE says of all prefixes in it."""

    origin: Origin = Origin.IGP
    as_path: AsPath = AsPath()
    local_pref: int | None = None
    """None: not said, as is right between autonomous systems."""
    med: int | None = None
    communities: frozenset[Community] = frozenset()
    originator_id: IPv4Address | None = None
    """Who brought it into the AS, where a reflector is between us."""
    cluster_list: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Path:
    """One way to one prefix."""

    prefix: IPNetwork
    next_hop: IPAddress
    """May be of the other family (RFC 8950)."""
    peer: IPAddress
    """Whose session brought it."""
    attributes: Attributes = Attributes()
    path_id: int = 0
    """Tells several paths of one peer apart (RFC 7911); 0 without that."""
