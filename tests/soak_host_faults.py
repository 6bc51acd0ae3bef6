"""What can happen to a host's interfaces, routes, rules, files and pods, each done for real."""

from __future__ import annotations

from pathlib import Path

from flanneld_world import run, show
from lab.pods import LabHost
from soak_look import furnish_rules
from soak_state import Soak
from traffic import address_of, ping

GATEWAY = "10.0.0.1"
NO_MAC = "0e:00:00:00:00:77"


def damage_route(soak: Soak) -> str:
    place = soak.any_place()
    route = soak.peer_route(place)
    lines = [
        f"ip route del {route}",
        f"ip route replace {route} via {GATEWAY}",
        f"ip route add 10.244.4.0/24 via {GATEWAY} proto 84",
        "ip route flush proto 84",
    ]
    return _do(place.host, soak.rng.choice(lines))


def damage_device(soak: Soak) -> str:
    place, device = soak.any_place(), soak.device
    route = soak.peer_route(place)
    lines = [f"ip link set {device} down", f"ip link set {device} mtu 1280", f"ip addr flush dev {device}", f"ip link del {device}"]
    if soak.kind == "vxlan":
        lines += [
            f"ip neigh flush dev {device} nud permanent",
            f"ip neigh replace {route[:-3]} lladdr {NO_MAC} dev {device}",
            f"ip neigh add 10.244.4.0 lladdr {NO_MAC} dev {device} nud permanent",
            f"bridge fdb add {NO_MAC} dev {device} dst 10.0.0.77",
            f"ip link set {device} address 0e:00:00:00:00:78",
            *_fdb_losses(place.host, device),
        ]
    return _do(place.host, soak.rng.choice(lines))


def _fdb_losses(host: LabHost, device: str) -> list[str]:
    """One line that deletes one entry, if there is any."""
    entries = [entry for entry in show(host, f"bridge fdb show dev {device}", check=False) if "dst" in entry]
    return [f"bridge fdb del {entry['mac']} dev {device}" for entry in sorted(entries, key=str)[:1]]


def _do(host: LabHost, line: str) -> str:
    run(host, line, check=False)  # what it is to damage may be missing just now
    return f"{host.name}: {line}"


def flap_uplink(soak: Soak) -> str:
    place = soak.any_place()
    run(place.host, f"ip link set {place.uplink} down")
    soak.pause(0, 1)
    run(place.host, f"ip link set {place.uplink} up")
    _default_route(place.host)
    return place.host.name


def pull_cable(soak: Soak) -> str:
    place = soak.any_place()
    run(soak.lab.fabric, f"ip link set {place.host.name} down")
    soak.pause(0.5, 4)
    run(soak.lab.fabric, f"ip link set {place.host.name} up")
    return place.host.name


def uplink_mtu(soak: Soak) -> str:
    place = soak.any_place()
    place.mtu = 1400 if place.mtu == 1500 else 1500
    run(place.host, f"ip link set {place.uplink} mtu {place.mtu}")
    return f"{place.host.name}: {place.mtu}"


def uplink_address(soak: Soak) -> str:
    place = soak.any_place()
    last = int(place.ip.rpartition(".")[2])
    place.ip = f"10.0.0.{last + 50 if last < 50 else last - 50}"
    run(place.host, f"ip addr flush dev {place.uplink} scope global")
    run(place.host, f"ip addr add {place.ip}/24 dev {place.uplink}")
    _default_route(place.host)
    return f"{place.host.name}: {place.ip}"


def uplink_name(soak: Soak) -> str:
    place = soak.any_place()
    name = "uplink0" if place.uplink == "eth0" else "eth0"
    run(place.host, f"ip link set {place.uplink} down")
    run(place.host, f"ip link set {place.uplink} name {name}")
    run(place.host, f"ip link set {name} up")
    place.uplink = name
    _default_route(place.host)
    return f"{place.host.name}: {name}"


def _default_route(host: LabHost) -> None:
    """Which goes with the uplink; there is none while that is down."""
    run(host, f"ip route replace default via {GATEWAY}", check=False)


def flush_rules(soak: Soak) -> str:
    """All of them; what was somebody else's is put back, as they would."""
    place = soak.any_place()
    lines = [
        "nft flush ruleset",
        "iptables -F",
        "iptables -t nat -F",
        "nft flush table ip flannel-ipv4",
        "nft delete table ip flannel-ipv4",
    ]
    said = _do(place.host, soak.rng.choice(lines))
    furnish_rules(place.host)
    return said


def delete_subnet_env(soak: Soak) -> str:
    place = soak.any_place()
    place.host.call(Path("/run/flannel/subnet.env").unlink, missing_ok=True)
    return place.host.name


def pods_come_and_go(soak: Soak) -> str:
    """A new one is reached from all other hosts, and goes."""
    place = soak.any_place()
    soak.settle()  # another fault may have come just before
    address = address_of(place.host.pod("passing"))
    for name, pod in soak.pods.items():
        if name != place.host.name and not ping(pod, address):
            soak.found.append(f"a new pod of {place.host.name} is not reached from {name}")
    place.host.remove_pod("passing")
    return place.host.name
