"""What a host holds, read from its kernel and files as facts in words, to be compared with what `soak_model` says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from flanneld_world import World, readyz, run, show, subnet_env
from lab.pods import LabHost
from soak_model import FOREIGN, Facts, Lease, Standing, numbered, read_lease

WIDEST = ip_network("10.240.0.0/12")
"""Every pod network of a soak is within."""
OTHERS = "other99"


@dataclass
class Place:
    """A host as it is now, by what was done to it."""

    host: LabHost
    ip: str
    uplink: str = "eth0"
    mtu: int = 1500

    def standing(self, subnet: str) -> Standing:
        return Standing(self.ip, self.uplink, self.mtu, subnet)


def leases_in(world: World) -> list[Lease]:
    """All that can be read."""
    found = (read_lease(name, key.value, expires=bool(key.lease)) for name, key in world.etcd.keys().items())
    return [lease for lease in found if lease]


def seen(place: Place, leases: Iterable[Lease], subnet: str) -> Facts:
    """All that is on the host, and what it has published."""
    host = place.host
    links = {link["ifname"]: link for link in show(host, "ip addr show")}
    routes = [route for route in show(host, "ip -4 route show table all") if _is_pods(route)]
    neighbours = [entry for entry in show(host, "ip -4 neigh show") if "PERMANENT" in entry["state"]]
    fdb = [entry for entry in show(host, "bridge fdb show") if "dst" in entry]
    nft, saved = run(host, "nft -s list ruleset"), run(host, "iptables-save").splitlines()
    return {
        "lease": frozenset(f"speaks {lease.kind}" for lease in leases if lease.subnet == subnet),
        "routes": frozenset(_route(route) for route in routes if route.get("type", "unicast") == "unicast"),
        "devices": frozenset(fact for name, link in links.items() if name.startswith("flannel") for fact in _device(link)),
        "neighbours": frozenset(f"{entry['dev']} {entry['dst']} {entry['lladdr']}" for entry in neighbours if _is_ours(entry)),
        "fdb": frozenset(f"{entry['ifname']} {entry['mac']} {entry['dst']}" for entry in fdb if entry["ifname"] != OTHERS),
        "subnet.env": numbered(subnet_env(host).splitlines()),
        "rules": numbered(_rules(nft, saved)),
        "others' things": frozenset(_foreign(routes, links, neighbours, fdb, nft, saved)),
        "readiness": frozenset({str(readyz(host)[0])}),
    }


def furnish(host: LabHost) -> None:
    """Put there what is somebody else's; once again is well too."""
    run(host, "ip route replace blackhole 10.241.7.0/24 proto static")
    run(host, f"ip link add {OTHERS} type vxlan id 99 dstport 4789 nolearning", check=False)
    run(host, f"ip link set {OTHERS} up")
    run(host, f"ip neigh replace 192.0.2.99 lladdr 0e:00:00:00:00:99 dev {OTHERS} nud permanent")
    run(host, f"bridge fdb replace 0e:00:00:00:00:99 dev {OTHERS} dst 10.0.0.99")
    furnish_rules(host)


def furnish_rules(host: LabHost) -> None:
    host.run(["nft", "add table inet foreign; add chain inet foreign kept { type filter hook forward priority 10; }"])
    rule = "FORWARD -s 192.0.2.0/24 -j ACCEPT"
    if host.run(f"iptables -C {rule}".split(), check=False).returncode:
        run(host, f"iptables -A {rule}")


def _is_pods(route: dict[str, Any]) -> bool:
    """True for routes of the pod network, but for the host's own pods."""
    if route["dst"] == "default" or route.get("type") in ("local", "broadcast", "multicast") or route.get("dev") == "cni0":
        return False
    return ip_network(route["dst"]).subnet_of(WIDEST)  # type: ignore[arg-type]  # both are IPv4


def _is_ours(entry: dict[str, Any]) -> bool:
    return str(entry["dev"]).startswith("flannel")


def _route(route: dict[str, Any]) -> str:
    via = f" via {route['gateway']}" if "gateway" in route else ""
    onlink = " onlink" if "onlink" in route["flags"] else ""
    metric = f" metric {route['metric']}" if "metric" in route else ""
    return f"{route['dst']}{via} dev {route['dev']} proto {route.get('protocol', 'boot')}{metric}{onlink}"


def _device(link: dict[str, Any]) -> list[str]:
    name, info = link["ifname"], link.get("linkinfo", {}).get("info_data", {})
    found = [f"{name} {'up' if 'UP' in link['flags'] else 'down'}", f"{name} mtu {link['mtu']}"]
    found += [f"{name} address {ip['local']}/{ip['prefixlen']}" for ip in link["addr_info"] if ip["family"] == "inet"]
    if link.get("linkinfo", {}).get("info_kind") == "vxlan":
        found += [f"{name} MAC {link['address']}"]
        found += [f"{name} VNI {info.get('id')} port {info.get('port')} learning {info.get('learning')}"]
        found += [f"{name} from {info.get('local')} on {info.get('link')}"]
    return found


def _rules(nft: str, saved: list[str]) -> list[str]:
    """What is flannel's of both kinds; a host has one of them."""
    table = nft.partition("table ip flannel-ipv4 {\n")[2].partition("\n}")[0]
    lines = [line.strip() for line in table.splitlines() if "comment" in line]
    return lines + [line.partition(" [")[0] for line in saved if "FLANNEL" in line or "flanneld" in line]


def _foreign(
    routes: list[dict[str, Any]],
    links: dict[str, dict[str, Any]],
    neighbours: list[dict[str, Any]],
    fdb: list[dict[str, Any]],
    nft: str,
    saved: list[str],
) -> set[str]:
    found = {f"route {route['type']} {route['dst']}" for route in routes if route.get("type", "unicast") != "unicast"}
    found |= {f"device {name}" for name in links if name == OTHERS}
    found |= {f"fdb {OTHERS} {entry['mac']} {entry['dst']}" for entry in fdb if entry["ifname"] == OTHERS}
    found |= {f"neighbour {OTHERS} {entry['dst']} {entry['lladdr']}" for entry in neighbours if entry["dev"] == OTHERS}
    found |= {"nftables table inet foreign"} if "table inet foreign" in nft else set()
    return found | {f"iptables {line}" for line in saved if f"iptables {line}" in FOREIGN}
