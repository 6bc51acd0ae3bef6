"""What an EVPN route's attributes say besides: extended communities and the multicast tunnel; pure; must not know routes.

RFC 4360 (extended communities), RFC 9012 §4.1 (encapsulation), RFC 9135 §8.1 (router's MAC), RFC 8365 §5.1.2.1 (route targets that
follow from the VNI), RFC 6514 §5 and RFC 8365 §9 (the tunnel for frames that go to everybody). All as numbers of 64 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NewType

from bgp.path import Asn
from flanneld.backends.vtep import Vni
from flanneld.lease import IPAddress

ExtendedCommunity = NewType("ExtendedCommunity", int)
"""Type (8 bits), subtype (8), value (48)."""

_TARGET_OF_AS2, _TARGET_OF_IP, _TARGET_OF_AS4 = 0x0002, 0x0102, 0x0202
_ROUTER_MAC = 0x0603
_ENCAPSULATION = 0x030C
_VXLAN = 8
"""IANA's number for the tunnel type."""
VXLAN = ExtendedCommunity(_ENCAPSULATION << 48 | _VXLAN)
_INGRESS_REPLICATION = 6


def automatic_target(asn: Asn, vni: Vni) -> ExtendedCommunity:
    """AS:VNI. Of an AS number of four octets the lower two are taken, as FRR does: the VNI is what tells."""
    return ExtendedCommunity(_TARGET_OF_AS2 << 48 | (asn & 0xFFFF) << 32 | vni)


def parse_target(text: str) -> ExtendedCommunity:
    """A route target as users write it, `64512:100`; raises ValueError."""
    if not (found := re.fullmatch(r"(\d{1,10}):(\d{1,10})", text)):
        raise ValueError(f"{text!r} is no route target, expected one like 64512:100")
    asn, number = int(found[1]), int(found[2])
    if asn < 1 << 16 and number < 1 << 32:
        return ExtendedCommunity(_TARGET_OF_AS2 << 48 | asn << 32 | number)
    if asn < 1 << 32 and number < 1 << 16:
        return ExtendedCommunity(_TARGET_OF_AS4 << 48 | asn << 16 | number)
    raise ValueError(f"{text!r} is no route target, expected 16 bits and 32 or the other way round")


def render_target(target: ExtendedCommunity) -> str:
    """The opposite of `parse_target`; of other kinds of targets, the number."""
    match target >> 48:
        case 0x0002:
            return f"{target >> 32 & 0xFFFF}:{target & 0xFFFFFFFF}"
        case 0x0202:
            return f"{target >> 16 & 0xFFFFFFFF}:{target & 0xFFFF}"
        case _:
            return f"0x{target:016x}"


def targets(communities: Iterable[ExtendedCommunity]) -> frozenset[ExtendedCommunity]:
    """Those that are route targets."""
    return frozenset(each for each in communities if each >> 48 in (_TARGET_OF_AS2, _TARGET_OF_IP, _TARGET_OF_AS4))


def is_automatic_target(target: ExtendedCommunity, vni: Vni) -> bool:
    """True if the target is some AS's for this VNI: every AS makes its own, and the VNI is what they have in common."""
    return target >> 48 == _TARGET_OF_AS2 and target & 0xFFFFFFFF == vni


def router_mac(mac: str) -> ExtendedCommunity:
    """Frames for what is behind the prefix go to this MAC address."""
    return ExtendedCommunity(_ROUTER_MAC << 48 | int(mac.replace(":", ""), 16))


def router_mac_of(communities: Iterable[ExtendedCommunity]) -> str | None:
    """The MAC address that one of them says; of several, which is an error, the lowest: everybody is to take the same."""
    found = sorted(each & 0xFFFFFFFFFFFF for each in communities if each >> 48 == _ROUTER_MAC)
    return found[0].to_bytes(6, "big").hex(":") if found else None


def by_vxlan(communities: Iterable[ExtendedCommunity]) -> bool:
    """True if VXLAN is among the encapsulations, or none is named."""
    named = {each & 0xFFFF for each in communities if each >> 48 == _ENCAPSULATION}
    return not named or _VXLAN in named


def replication_tunnel(vtep: IPAddress, vni: Vni) -> bytes:
    """A PMSI tunnel attribute's value: flags (1), type (1), VNI (3), VTEP (4, 16): each sender sends a copy to each VTEP."""
    return bytes([0, _INGRESS_REPLICATION]) + vni.to_bytes(3, "big") + vtep.packed
