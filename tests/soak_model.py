"""What each host's kernel should hold, worked out from etcd's keys and config alone, as an administrator with a manual would.

Nothing of flanneld is used for it: the two must not be wrong together. What is said here is compared with what `soak_look` reads:
facts in words, gathered by what they are about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

Facts = Mapping[str, frozenset[str]]
Config = Mapping[str, Any]

OVERHEAD = {"vxlan": 50, "host-gw": 0, "udp": 28}
VNI, PORT = 1, 8472
"""vxlan's when the config does not say."""
ROUTE = "proto 84"
"""What marks a route as flanneld's."""
FOREIGN = frozenset(
    {
        "route blackhole 10.241.7.0/24",
        "device other99",
        "fdb other99 0e:00:00:00:00:99 10.0.0.99",
        "neighbour other99 192.0.2.99 0e:00:00:00:00:99",
        "nftables table inet foreign",
        "iptables -A FORWARD -s 192.0.2.0/24 -j ACCEPT",
    }
)
"""What somebody else has on each host, some of it in the middle of ours: never touched."""

MASQUERADE = (
    ("mark", "return"),
    ("own pods", "return"),
    ("pods own", "return"),
    ("others own", "return"),
    ("pods unicast", "masquerade"),
    ("others pods", "masquerade"),
)
"""flannel's rules of `--ip-masq`, in its order: which packets, what becomes of them."""


@dataclass(frozen=True)
class Standing:
    """A host as it should be, by what was done to it."""

    ip: str
    uplink: str
    mtu: int
    """The uplink's."""
    subnet: str
    """The one that it has always had, as `10.244.7.0`."""


@dataclass(frozen=True)
class Lease:
    subnet: str
    ip: str
    kind: str
    data: Mapping[str, Any]
    expires: bool

    @property
    def vni(self) -> int:
        return int(self.data.get("VNI", VNI))


def read_lease(name: str, text: str, *, expires: bool) -> Lease | None:
    """From a key and its value; None for what is none."""
    try:
        value = json.loads(text)
        ip_address(value["PublicIP"])
        return Lease(name.split("-")[0], value["PublicIP"], value.get("BackendType", ""), value.get("BackendData") or {}, expires)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def wrong_leases(leases: Iterable[Lease], owners: Mapping[str, str], guests: Iterable[str], reserved: Iterable[str]) -> list[str]:
    """Leases that should not be, in words. `owners` are the hosts' public IPs by subnet; `guests` are subnets of hosts that do not
    exist; `reserved` are those that somebody may have written without an expiry."""
    held = {lease.subnet: lease for lease in leases}
    found = [f"nobody has {subnet}, {ip} should" for subnet, ip in owners.items() if subnet not in held]
    for subnet, lease in held.items():
        if subnet not in guests and owners.get(subnet) != lease.ip:
            found.append(f"{lease.ip} has {subnet}, expected {owners.get(subnet, 'nobody')}")
        if not lease.expires and subnet not in {*guests, *reserved}:
            found.append(f"the lease of {subnet} never expires")
    return found


def wanted(standing: Standing, config: Config, leases: Iterable[Lease]) -> Facts:
    """All that should be on the host."""
    kind = str(config["Backend"]["Type"])
    own = next((lease for lease in leases if lease.subnet == standing.subnet), None)
    peers = [lease for lease in leases if lease.subnet != standing.subnet]
    words = nft_words if config["EnableNFTables"] else iptables_words
    far = [peer for peer in peers if peer.kind == "vxlan" and not config["Backend"].get("DirectRouting")]
    return {
        "lease": frozenset({f"speaks {kind.replace('udp', '')}"}),
        "routes": frozenset(_route(standing, config, peer) for peer in peers),
        "devices": frozenset(_devices(standing, config, own)),
        "neighbours": frozenset(f"flannel.{peer.vni} {peer.subnet} {peer.data.get('VtepMAC')}" for peer in far),
        "fdb": frozenset(f"flannel.{peer.vni} {peer.data.get('VtepMAC')} {peer.ip}" for peer in far),
        "subnet.env": numbered(expected_subnet_env(standing, config).splitlines()),
        "rules": numbered(words(config["Network"], f"{standing.subnet}/24")),
        "others' things": FOREIGN,
        "readiness": frozenset({"200"}),
    }


def differing(seen: Facts, expected: Facts) -> list[str]:
    """In words; nothing when they are the same."""
    found = []
    for topic, facts in expected.items():
        found += [f"{topic}: {fact!r} missing" for fact in sorted(facts - seen[topic])]
        found += [f"{topic}: {fact!r} too much" for fact in sorted(seen[topic] - facts)]
    return found


def _route(standing: Standing, config: Config, peer: Lease) -> str:
    if not peer.kind:
        return f"{config['Network']} dev flannel0 {ROUTE}"
    if peer.kind == "host-gw" or config["Backend"].get("DirectRouting"):
        return f"{peer.subnet}/24 via {peer.ip} dev {standing.uplink} {ROUTE}"
    return f"{peer.subnet}/24 via {peer.subnet} dev flannel.{peer.vni} {ROUTE} onlink"


def mtu_of_pods(standing: Standing, config: Config) -> int:
    kind = config["Backend"]["Type"]
    underlay = min(config["Backend"].get("MTU") or standing.mtu, standing.mtu) if kind == "vxlan" else standing.mtu
    return int(underlay) - OVERHEAD[kind]


def _devices(standing: Standing, config: Config, own: Lease | None) -> list[str]:
    kind, backend = config["Backend"]["Type"], config["Backend"]
    if kind == "host-gw":
        return []
    vni = backend.get("VNI", VNI)
    name = f"flannel.{vni}" if kind == "vxlan" else "flannel0"
    found = [f"{name} up", f"{name} mtu {mtu_of_pods(standing, config)}", f"{name} address {standing.subnet}/32"]
    if kind == "vxlan":
        mac = own.data.get("VtepMAC") if own else "of no lease"
        found += [f"{name} MAC {mac}", f"{name} VNI {vni} port {backend.get('Port', PORT)} learning False"]
        found += [f"{name} from {standing.ip} on {standing.uplink}"]
    return found


def expected_subnet_env(standing: Standing, config: Config) -> str:
    """The file's whole text."""
    return (
        f"FLANNEL_NETWORK={config['Network']}\n"
        f"FLANNEL_SUBNET={standing.subnet[:-1]}1/24\n"
        f"FLANNEL_MTU={mtu_of_pods(standing, config)}\n"
        "FLANNEL_IPMASQ=true\n"
    )


def numbered(lines: Iterable[str]) -> frozenset[str]:
    """Lines whose order is a fact too."""
    return frozenset(f"{number} {line}" for number, line in enumerate(lines))


def nft_words(network: str, own: str) -> list[str]:
    """Both chains, as `nft list table` has them."""
    sides = {"own": f"{{}} {own}", "pods": f"{{}} {network}", "others": f"{{}} != {network}", "unicast": "{} != 224.0.0.0/4"}

    def condition(which: str) -> str:
        if which == "mark":
            return "meta mark & 0x00004000 == 0x00004000"
        source, destination = (sides[side] for side in which.split())
        return f"{source.format('ip saddr')} {destination.format('ip daddr')}"

    end = {"return": "return", "masquerade": "masquerade fully-random"}
    masquerade = [f'{condition(which)} {end[verdict]} comment "flanneld masq"' for which, verdict in MASQUERADE]
    return masquerade + [f'ip {side} {network} accept comment "flanneld forward"' for side in ("saddr", "daddr")]


def iptables_words(network: str, own: str) -> list[str]:
    """All lines about flannel, as `iptables-save` has them, those of the table filter first."""
    forward, masquerade = ('-m comment --comment "flanneld forward"', '-m comment --comment "flanneld masq"')
    sides = {"own": f"{{}} {own}", "pods": f"{{}} {network}", "others": f"! {{}} {network}", "unicast": "! {} 224.0.0.0/4"}

    def condition(which: str) -> str:
        if which == "mark":
            return "-m mark --mark 0x4000/0x4000"
        source, destination = (sides[side] for side in which.split())
        return f"{source.format('-s')} {destination.format('-d')}"

    end = {"return": "RETURN", "masquerade": "MASQUERADE --random-fully"}
    lines = [":FLANNEL-FWD -", f"-A FORWARD {forward} -j FLANNEL-FWD"]
    lines += [f"-A FLANNEL-FWD {side} {network} {forward} -j ACCEPT" for side in ("-s", "-d")]
    lines += [":FLANNEL-POSTRTG -", f"-A POSTROUTING {masquerade} -j FLANNEL-POSTRTG"]
    return lines + [f"-A FLANNEL-POSTRTG {condition(which)} {masquerade} -j {end[verdict]}" for which, verdict in MASQUERADE]
