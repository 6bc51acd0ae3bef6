"""What EVPN's routes are in tests: hosts n = 1, 2, ... are VTEPs at 10.0.0.n, with the MACs and subnets of `peers_of`; we are 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.communities import VXLAN, ExtendedCommunity, automatic_target, router_mac
from bgp.evpn.paths import EvpnPath, EvpnPolicy, ways
from bgp.evpn.routes import EvpnRoute, MacIp, Prefix, distinguisher
from bgp.path import Asn, AsPath, Attributes
from bgp.session import Session
from flanneld.backends.vtep import Vni
from flanneld.lease import IPAddress, Pool
from peers_of import vtep_mac

OURS, VNI = Asn(64512), Vni(1)
POOL = Pool(ip_network("10.244.0.0/16"), 24, ip_network("10.244.1.0/24"), ip_network("10.244.255.0/24"))
POLICY = EvpnPolicy(
    pools=(POOL,),
    own_subnets=(ip_network("10.244.1.0/24"),),
    own_addresses=frozenset({ip_address("10.0.0.1")}),
    on_link=lambda address: address in ip_network("10.0.0.0/24"),
    host_routes=False,
    vni=VNI,
    own_macs=frozenset({vtep_mac(1)}),
)


def at(n: int) -> IPAddress:
    return ip_address(f"10.0.0.{n}")


def session(n: int, asn: int = OURS) -> Session:
    return Session(at(n), at(1), Asn(asn), OURS, "10.0.0.1", families=(), evpn=True)


def extended(mac: str | None, asn: int = OURS, vni: int = VNI) -> frozenset[ExtendedCommunity]:
    """Of a route of that AS."""
    found = {automatic_target(Asn(asn), Vni(vni)), VXLAN}
    return frozenset(found if mac is None else {*found, router_mac(mac)})


def told(n: int, prefix: str = "", **changes: Any) -> EvpnAnnouncement:
    """Host n's prefix route, of its own subnet unless another is given."""
    key = Prefix(distinguisher(f"10.0.0.{n}", 1), ip_network(prefix or f"10.244.{n}.0/24"))
    said = EvpnAnnouncement(EvpnRoute(key, VNI), at(n), Attributes(local_pref=100), extended(vtep_mac(n)))
    return replace(said, **changes)


def told_of_host(n: int, address: str, mac: str) -> EvpnAnnouncement:
    """Host n's MAC/IP route."""
    route = EvpnRoute(MacIp(distinguisher(f"10.0.0.{n}", 1), mac, ip_address(address)), VNI)
    return EvpnAnnouncement(route, at(n), Attributes(local_pref=100), extended(None))


def path(said: EvpnAnnouncement, by: int = 2) -> EvpnPath:
    """The way that it is, told by host `by`."""
    (found,) = ways(at(by), [said], hosts=True)
    return found


def choices(*said: EvpnAnnouncement) -> Mapping[Any, tuple[EvpnPath, ...]]:
    return {way.prefix: (way,) for way in map(path, said)}


def through(*asns: int) -> Attributes:
    return Attributes(as_path=AsPath(tuple(map(Asn, asns))))
