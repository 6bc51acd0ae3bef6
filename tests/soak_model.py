"""What each host's kernel should hold, worked out from etcd's keys and config alone, as an administrator with a manual would.

Nothing of flanneld is used for it: the two must not be wrong together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flanneld_world import World, run, show, subnet_env
from lab.pods import LabHost

OVERHEAD = {"vxlan": 50, "host-gw": 0, "udp": 28}


@dataclass
class Place:
    """A host as it is now, by what was done to it."""

    host: LabHost
    ip: str
    uplink: str = "eth0"
    mtu: int = 1500


@dataclass(frozen=True)
class Peer:
    subnet: str
    """As `10.244.7.0`."""
    ip: str
    kind: str
    data: Mapping[str, Any]


def peers_in(world: World) -> list[Peer]:
    """All leases that can be read."""
    found = []
    for name, key in world.etcd.keys().items():
        try:
            value = json.loads(key.value)
            found.append(Peer(name.split("-")[0], value["PublicIP"], value.get("BackendType", ""), value.get("BackendData") or {}))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def wrong(world: World, place: Place, config: Mapping[str, Any], subnet: str) -> list[str]:
    """Everything on the host that is not as it should be, in words; `subnet` is the one that it has always had."""
    leases = peers_in(world)
    own = [lease for lease in leases if lease.ip == place.ip]
    if [lease.subnet for lease in own] != [subnet]:
        return [f"leases of {place.ip}: {[lease.subnet for lease in own]}, expected {subnet} alone"]
    kind = str(config["Backend"]["Type"])
    published = {"udp": ""}.get(kind, kind)
    if own[0].kind != published:
        return [f"the lease says {own[0].kind!r}, the config {published!r}"]
    others = [lease for lease in leases if lease.ip != place.ip]
    found = _differing("routes", _routes(place), _wanted_routes(place, config, others))
    if kind == "vxlan":
        found += _vxlan(place, config, own[0], others)
    found += _subnet_env(place, config, subnet)
    return found + _rules(place, config, subnet)


def _differing(what: str, present: set[str], wanted: set[str]) -> list[str]:
    return [f"{what}: {entry} missing" for entry in sorted(wanted - present)] + [
        f"{what}: {entry} stale" for entry in sorted(present - wanted)
    ]


def _routes(place: Place) -> set[str]:
    return {f"{route['dst']} via {route.get('gateway')} dev {route['dev']}" for route in show(place.host, "ip route show proto 84")}


def _wanted_routes(place: Place, config: Mapping[str, Any], others: list[Peer]) -> set[str]:
    wanted = set()
    for peer in others:
        if peer.kind == "vxlan":
            wanted.add(f"{peer.subnet}/24 via {peer.subnet} dev flannel.{peer.data['VNI']}")
        elif peer.kind == "host-gw":
            wanted.add(f"{peer.subnet}/24 via {peer.ip} dev {place.uplink}")
    speak_udp = any(not peer.kind for peer in others)
    if config["Backend"]["Type"] == "udp" or speak_udp:
        wanted.add(f"{config['Network']} via None dev flannel0")
    return wanted


def _vxlan(place: Place, config: Mapping[str, Any], own: Peer, others: list[Peer]) -> list[str]:
    vni, port = config["Backend"].get("VNI", 1), config["Backend"].get("Port", 8472)
    device = f"flannel.{vni}"
    links = show(place.host, f"ip link show {device}", check=False)
    if not links:
        return [f"no device {device}"]
    (link,) = links
    info = link["linkinfo"]["info_data"]
    mtu = min(config["Backend"].get("MTU") or place.mtu, place.mtu) - OVERHEAD["vxlan"]
    present = (link["mtu"], link["address"], info["id"], info["port"], info.get("local"), info.get("link"), "UP" in link["flags"])
    wanted = (mtu, own.data["VtepMAC"], vni, port, place.ip, place.uplink, True)
    found = [] if present == wanted else [f"device {device}: {present}, expected {wanted}"]
    peers = [peer for peer in others if peer.kind == "vxlan" and peer.data["VNI"] == vni]
    neighbours = {f"{entry['dst']} {entry['lladdr']}" for entry in show(place.host, f"ip neigh show dev {device} nud permanent")}
    found += _differing("neighbours", neighbours, {f"{peer.subnet} {peer.data['VtepMAC']}" for peer in peers})
    fdb = {f"{entry['mac']} {entry['dst']}" for entry in show(place.host, f"bridge fdb show dev {device}") if "dst" in entry}
    return found + _differing("fdb", fdb, {f"{peer.data['VtepMAC']} {peer.ip}" for peer in peers})


def _subnet_env(place: Place, config: Mapping[str, Any], subnet: str) -> list[str]:
    kind = str(config["Backend"]["Type"])
    underlay = min(config["Backend"].get("MTU") or place.mtu, place.mtu) if kind == "vxlan" else place.mtu
    wanted = (
        f"FLANNEL_NETWORK={config['Network']}\nFLANNEL_SUBNET={subnet[:-1]}1/24\n"
        f"FLANNEL_MTU={underlay - OVERHEAD[kind]}\nFLANNEL_IPMASQ=true\n"
    )
    present = subnet_env(place.host)
    return [] if present == wanted else [f"subnet.env: {present.split()}, expected {wanted.split()}"]


def _rules(place: Place, config: Mapping[str, Any], subnet: str) -> list[str]:
    nft = run(place.host, "nft list ruleset ip", check=False)
    own = nft.partition("table ip flannel-ipv4")[2].partition("\n}")[0]
    saved = [line for line in run(place.host, "iptables-save").splitlines() if "FLANNEL" in line]
    text, other = (own, saved) if config["EnableNFTables"] else ("\n".join(saved), own)
    found = [] if not other else [f"rules of the other kind: {other}"]
    for needed, count in ((f"{subnet}/24", 3), (config["Network"], 7)):
        if text.count(str(needed)) < count:
            found.append(f"rules: {needed} {text.count(str(needed))} times, expected {count}: {text!r:.300}")
    if text.lower().count("masquerade") < 2:
        found.append(f"rules: no masquerading: {text!r:.300}")
    return found
