"""Configurations that are right, and what else could come in their place; must not know how plugins read them."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cni_chain import host_local
from cni_ours import SUBNET_FILE
from cni_world import Json

UPLINK = "uplink"
POOL = host_local("10.9.0.0/24", "fd00:9::/64", routes=[{"dst": "10.99.0.0/16", "gw": "10.9.0.1", "mtu": 1400, "advmss": 1300}])
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}]
CONFIGURATIONS: Mapping[str, Json] = {
    "bridge": {
        "bridge": "cni0", "isGateway": True, "isDefaultGateway": True, "forceAddress": True, "ipMasq": True, "mtu": 1400,
        "ipMasqBackend": "nftables", "hairpinMode": True, "promiscMode": False, "macspoofchk": True, "portIsolation": True,
        "ipam": {**POOL, "dataDir": "/var/lib/cni/fuzz", "resolvConf": "/dev/null"}, "mac": "02:00:00:00:00:01",
        "dns": {"nameservers": ["10.9.0.1"], "domain": "d", "search": ["s"], "options": ["o"]},
        "args": {"cni": {"ips": ["10.9.0.77"], "mac": "02:00:00:00:00:02"}},
        "runtimeConfig": {"ips": ["10.9.0.78"], "mac": "02:00:00:00:00:03", "ipRanges": [[{"subnet": "10.8.0.0/24"}]]},
    },
    "ptp": {"ipMasq": True, "ipMasqBackend": "iptables", "mtu": 1400, "ipam": POOL, "dns": {"nameservers": ["10.9.0.1"]}},
    "host-local": {"ipam": {"type": "host-local", "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.5", "rangeEnd": "10.9.0.9",
                            "gateway": "10.9.0.1"}},
    "static": {"ipam": {"type": "static", "addresses": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1", "version": "4"}],
                        "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}], "dns": {"nameservers": ["10.9.0.1"]}}},
    "flannel": {"subnetFile": str(SUBNET_FILE), "dataDir": "/var/lib/cni/fuzz-flannel",
                "ipam": {"routes": [{"dst": "10.7.0.0/16"}]},
                "delegate": {"type": "bridge", "hairpinMode": True, "isDefaultGateway": True, "bridge": "cni1"}},
    "loopback": {},
    "macvlan": {"master": UPLINK, "mode": "bridge", "mtu": 1400, "linkInContainer": False, "ipam": POOL, "bcqueuelen": 100},
    "ipvlan": {"master": UPLINK, "mode": "l3", "mtu": 1400, "linkInContainer": False, "ipam": POOL},
    "vlan": {"master": UPLINK, "vlanId": 7, "mtu": 1400, "linkInContainer": False, "ipam": POOL},
    "portmap": {"backend": "nftables", "snat": True, "masqAll": True, "markMasqBit": 13, "externalSetMarkChain": "",
                "conditionsV4": [], "capabilities": {"portMappings": True}, "runtimeConfig": {"portMappings": PORTS}},
    "bandwidth": {"ingressRate": 10**6, "ingressBurst": 10**6, "egressRate": 10**6, "egressBurst": 10**6,
                  "runtimeConfig": {"bandwidth": {"ingressRate": 10**6, "ingressBurst": 10**6}}},
    "firewall": {"backend": "nftables", "ingressPolicy": "same-bridge", "iptablesAdminChainName": "CNI-ADMIN", "firewalldZone": ""},
    "tuning": {"mac": "02:00:00:00:00:04", "mtu": 1400, "promisc": True, "allmulti": True, "txQLen": 100,
               "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "dataDir": "/run/cni/fuzz-tuning"},
}  # fmt: skip
"""Every key of every plugin, with a value that is right."""
CHAINED = ("portmap", "bandwidth", "firewall", "tuning")
WRONG: Sequence[Any] = (
    None, True, False, 0, -1, 7, 2**31, 2**64, 10**400, -(10**30), 1.5, 1e300, float("inf"), float("nan"), "", " ", "x", "\0",
    "a\0b", "\ud800", "ä" * 9, "x" * 70_000, "10.9.0.0/24", "::/0", "fe80::1%eth0", "../x", "net", [], [None], [[]], [{}], ["x"],
    [1, "x"],
    {}, {"": ""}, {"a": {"b": [{}]}}, {"\0": "\0"},
)  # fmt: skip
"""What a key's value can be instead."""


def spoilt(draw: random.Random, conf: Json) -> Json:
    """The configuration with one to three values that are something else."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        holders = list(_places(conf))
        holder, key = draw.choice(holders)
        match draw.randrange(8):
            case 0:
                holder[key] = [holder[key]]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(("x", "", "\ud800", "ipam", str(key).upper()))] = holder.pop(key)
            case 2:
                holder[key] = f"@{draw.choice((3, 100, 900, 950, 970, 980, 990, 3000))}@"
            case _:
                holder[key] = copy.deepcopy(draw.choice(WRONG))
    return conf


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in it that has a value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def spelled(conf: Json) -> bytes:
    """As JSON, in which "@9@" is a list of a list, and so on nine times: more than Python's own encoder can do."""
    return re.sub(r'"@(\d+)@"', lambda deep: "[" * int(deep[1]) + "]" * int(deep[1]), json.dumps(conf)).encode()


def mangled(draw: random.Random, text: bytes) -> bytes:
    """Bytes that were JSON."""
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(text) + 1)
        match draw.randrange(6):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + draw.randbytes(draw.randrange(1, 9)) + text[at:]
            case 2:
                text = text[:at] + text[at + draw.randrange(1, 30) :]
            case 3:
                text = text[:at] + text[at : at + 1].swapcase() + text[at + 1 :]
            case 4:
                text = text.replace(b"true", draw.choice((b"null", b'"true"', b"1", b"nan")), 1)
            case _:
                text = text[:at] + draw.choice((b'"', b"{", b"}", b",", b"\\u0000", b"\\", b"9" * 5000)) + text[at:]
    return text


def garbage(draw: random.Random) -> bytes:
    makers: Sequence[Callable[[], bytes]] = (
        lambda: draw.randbytes(draw.randrange(300)),
        lambda: b"[" * draw.randrange(1, 200_000),
        lambda: b'{"a":' * draw.choice((900, 990, 100_000)) + b"1" + b"}" * 990,
        lambda: json.dumps(draw.choice(WRONG)).encode(),
        lambda: json.dumps({"cniVersion": "1.1.0", "name": "net"}).encode(draw.choice(("utf-16", "utf-32", "utf-8-sig"))),
        lambda: b"\0" * draw.randrange(1, 100_000),
        lambda: b'{"cniVersion":"' + b"1" * draw.randrange(2_000_000) + b'"}',
    )
    return draw.choice(makers)()
