"""What one VXLAN peer publishes, and what it needs in the kernel: pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NewType

from flanneld.backend import Plan, Refusal
from flanneld.kernel import Entry, FdbEntry, Neighbour, Route
from flanneld.lease import Family, IPAddress, Lease, family_of

IANA_PORT = 4789

Vni = NewType("Vni", int)


@dataclass(frozen=True, slots=True)
class Vtep:
    """Where one family's frames for a peer go: what a lease's BackendData says."""

    vni: Vni | None
    """None: an old flannel, which did not publish it."""
    mac: str

    def render(self) -> str:
        """The compact JSON that Go flannel publishes."""
        return json.dumps({"VNI": self.vni, "VtepMAC": self.mac}, separators=(",", ":"))


@lru_cache(maxsize=16384)
def parse_vtep(data: str) -> Vtep:
    """Read a peer's BackendData; raises ValueError saying what is wrong with it. Each round reads every peer's, as a rule again."""
    try:
        fields = json.loads(data or "null")
    except (ValueError, RecursionError):
        raise ValueError(f"published BackendData {data!r}, expected JSON") from None
    found = {str(key).lower(): value for key, value in fields.items()} if isinstance(fields, dict) else {}
    mac, vni = found.get("vtepmac"), found.get("vni")
    if not isinstance(mac, str) or not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", mac):
        raise ValueError(f"published VtepMAC {mac!r}, expected six octets as aa:bb:cc:dd:ee:ff")
    if int(mac[:2], 16) & 1 or not int(mac.replace(":", ""), 16):
        raise ValueError(f"published VtepMAC {mac!r}, expected one host's, not a group's and not zero")
    return Vtep(Vni(vni) if isinstance(vni, int) else None, mac.lower())


def vni_of(data: str) -> Vni | None:
    """The VNI that a peer's BackendData names; None when it names none that can be read."""
    try:
        return parse_vtep(data).vni
    except ValueError:
        return None


def checksum_trap(driver: str, port: int) -> str:
    """What is known to break checksums that are left to hardware behind this driver, in words; "" for nothing.

    Packets between pods then arrive damaged: DNS fails, connections hang, pings go through.
    """
    if driver == "vmxnet3" and port != IANA_PORT:
        return f"vmxnet3 finishes inner checksums on UDP port {IANA_PORT} alone, VXLAN is on {port} here"
    return ""


def vtep_mac(public_ip: IPAddress, vni: Vni) -> str:
    """A locally administered unicast MAC that is this host's for ever: a device made anew keeps what peers know."""
    octets = bytearray(hashlib.sha256(f"vtep {public_ip} {vni}".encode()).digest()[:6])
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def plan(peer: Lease, vni: Vni, devices: Mapping[Family, int], uplink: int, direct: Callable[[IPAddress], bool]) -> Plan:
    """What one peer needs: a plain route where `direct` says it is on the uplink's segment, else route, neighbour and FDB entry."""
    entries: list[Entry] = []
    for subnet in peer.subnets:
        family = family_of(subnet)
        address = peer.attrs.public_ip(family)
        if address is None:
            return Refusal(peer, f"has the subnet {subnet} but no public IPv{family} address")
        if direct(address):
            entries.append(Route(subnet, uplink, address))
            continue
        try:
            vtep = parse_vtep(peer.attrs.data(family))
        except ValueError as error:
            return Refusal(peer, str(error), foreign=True)
        if vtep.vni not in (None, vni):
            return Refusal(peer, f"is on VNI {vtep.vni}, ours is {vni}", foreign=True)
        device, gateway = devices[family], subnet.network_address
        entries += (
            Neighbour(device, gateway, vtep.mac),
            FdbEntry(device, vtep.mac, address),
            Route(subnet, device, gateway, onlink=True),
        )
    return tuple(entries)
