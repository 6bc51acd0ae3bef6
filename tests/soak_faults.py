"""What can go wrong in a pod network, each done for real and undone: what the soak draws from."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flanneld_world import NETWORK, PREFIX, Flanneld, World, eventually, own_subnet, run, vxlan_lease
from lab.etcd import start_etcd
from lab.lab import Lab
from soak_model import Place

CONFIG = f"{PREFIX}/config"
NOBODY = "10.244.3.0"
"""The subnet of a host that does not exist."""


@dataclass
class Soak:
    """The world, and what has been done to it."""

    world: World
    rng: random.Random
    daemons: dict[str, Flanneld]
    places: dict[str, Place]
    etcd: subprocess.Popen[str]
    config: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(NETWORK)))
    subnets: dict[str, str] = field(default_factory=dict)

    @property
    def lab(self) -> Lab:
        return self.world.lab

    def any_place(self) -> Place:
        return self.rng.choice(list(self.places.values()))

    @property
    def kind(self) -> str:
        return str(self.config["Backend"]["Type"])

    @property
    def device(self) -> str:
        return {"vxlan": f"flannel.{self.config['Backend'].get('VNI', 1)}", "udp": "flannel0"}.get(self.kind, "eth0")

    def configure(self, **changes: object) -> None:
        self.config = {**self.config, **changes}
        self.world.configure(self.config)

    def peer_route(self, place: Place) -> str:
        """The subnet of another host."""
        others = [subnet for name, subnet in self.subnets.items() if name != place.host.name]
        return f"{self.rng.choice(others)}/24"

    def start(self, place: Place) -> None:
        flags = [f"--iface={place.uplink}"]
        self.daemons[place.host.name] = self.world.start(place.host.name, *flags)

    def pause(self, low_s: float, high_s: float) -> None:
        time.sleep(self.rng.uniform(low_s, high_s))


def restart(soak: Soak, number: int) -> str:
    place = soak.any_place()
    soak.daemons[place.host.name].end(number)
    soak.start(place)
    return place.host.name


def pause_daemon(soak: Soak) -> str:
    place = soak.any_place()
    process = soak.daemons[place.host.name].process
    process.send_signal(signal.SIGSTOP)
    soak.pause(0.5, 3)
    process.send_signal(signal.SIGCONT)
    return place.host.name


def start_the_etcd(soak: Soak) -> None:
    soak.etcd = start_etcd(soak.lab.fabric, soak.lab.etcd_url, soak.lab.directory / "fabric")
    eventually(lambda: _answers(soak), "etcd")


def _answers(soak: Soak) -> bool:
    try:
        soak.world.etcd.keys()
    except (OSError, AssertionError):
        return False
    return True


def kill_etcd(soak: Soak) -> str:
    soak.etcd.kill()
    soak.etcd.wait()
    soak.pause(0.2, 5)
    start_the_etcd(soak)
    return ""


def pause_etcd(soak: Soak) -> str:
    soak.etcd.send_signal(signal.SIGSTOP)
    soak.pause(0.5, 8)
    soak.etcd.send_signal(signal.SIGCONT)
    return ""


def restore_etcd(soak: Soak) -> str:
    """From a snapshot taken before somebody came, and before a lease was lost."""
    etcd, directory = soak.world.etcd, soak.lab.directory / "fabric"
    victim = soak.any_place()
    etcd.delete(f"{PREFIX}/subnets/{soak.subnets[victim.host.name]}-24")
    soak.lab.fabric.run(["etcdctl", "--endpoints=http://127.0.0.1:2379", "snapshot", "save", str(directory / "snapshot")])
    soak.pause(0.5, 1)
    soak.etcd.kill()
    soak.etcd.wait()
    shutil.rmtree(directory / "etcd")
    restore = ["etcdctl", "snapshot", "restore", str(directory / "snapshot"), f"--data-dir={directory / 'etcd'}", "--name=default"]
    peer = "http://127.0.0.1:2380"
    soak.lab.fabric.run([*restore, f"--initial-cluster=default={peer}", f"--initial-advertise-peer-urls={peer}"])
    (directory / "snapshot").unlink()
    start_the_etcd(soak)
    return victim.host.name


def cut_from_etcd(soak: Soak) -> str:
    place = soak.any_place()
    soak.lab.fabric.run(["nft", "add table ip cut; add chain ip cut in { type filter hook input priority 0; }"])
    soak.lab.fabric.run(["nft", f"add rule ip cut in ip saddr {place.ip} tcp dport 2379 drop"])
    soak.pause(1, 8)
    soak.lab.fabric.run(["nft", "delete table ip cut"])
    return place.host.name


def compact_etcd(soak: Soak) -> str:
    endpoint = "--endpoints=http://127.0.0.1:2379"
    status = soak.lab.fabric.run(["etcdctl", endpoint, "endpoint", "status", "-w", "json"]).stdout
    revision = json.loads(status)[0]["Status"]["header"]["revision"]
    soak.lab.fabric.run(["etcdctl", endpoint, "compact", str(revision)], check=False)  # it may be done already
    return ""


def delete_lease(soak: Soak) -> str:
    place = soak.any_place()
    soak.world.etcd.delete(f"{PREFIX}/subnets/{soak.subnets[place.host.name]}-24")
    return place.host.name


def wipe_etcd(soak: Soak) -> str:
    soak.world.etcd.delete(f"{PREFIX}/")
    soak.pause(0, 1)
    soak.configure()
    return ""


def write_over_lease(soak: Soak) -> str:
    place = soak.any_place()
    key = f"{PREFIX}/subnets/{soak.subnets[place.host.name]}-24"
    text = soak.rng.choice(["garbage", vxlan_lease(place.ip, "0e:00:00:00:00:66")])
    soak.world.etcd.put(key, text)
    return f"{place.host.name}: {text[:20]}"


def foreign_peer(soak: Soak) -> str:
    """One that comes, changes its address, MAC and subnet, and goes."""
    for ip, mac in (("10.0.0.200", "0e:00:00:00:02:00"), ("10.0.0.201", "0e:00:00:00:02:00"), ("10.0.0.201", "0e:00:00:00:02:01")):
        soak.world.etcd.put(f"{PREFIX}/subnets/{NOBODY}-24", vxlan_lease(ip, mac))
        soak.pause(0, 0.3)
    soak.world.etcd.delete(f"{PREFIX}/subnets/{NOBODY}-24")
    return ""


def garbage_key(soak: Soak) -> str:
    soak.world.etcd.put(f"{PREFIX}/subnets/{NOBODY}-24", soak.rng.choice(["", "{", '{"PublicIP":"nowhere"}', "[]"]))
    soak.world.etcd.put(f"{PREFIX}/subnets/nonsense", "x")
    soak.pause(0, 0.5)
    soak.world.etcd.delete(f"{PREFIX}/subnets/nonsense")
    soak.world.etcd.delete(f"{PREFIX}/subnets/{NOBODY}-24")
    return ""


def damage_route(soak: Soak) -> str:
    place = soak.any_place()
    route = soak.peer_route(place)
    lines = [
        f"ip route del {route}",
        f"ip route replace {route} via 10.0.0.1",
        "ip route add 10.244.4.0/24 via 10.0.0.1 proto 84",
    ]
    line = soak.rng.choice([*lines, "ip route flush proto 84"])
    run(place.host, line, check=False)
    return f"{place.host.name}: {line}"


def damage_device(soak: Soak) -> str:
    place, device = soak.any_place(), soak.device
    if device == place.uplink or device == "eth0":
        return damage_route(soak)
    route = soak.peer_route(place)
    lines = [f"ip link set {device} down", f"ip link set {device} mtu 1280", f"ip addr flush dev {device}", f"ip link del {device}"]
    if soak.kind == "vxlan":
        lines += [
            f"ip neigh flush dev {device} nud permanent",
            f"ip neigh replace {route[:-3]} lladdr 0e:00:00:00:00:77 dev {device}",
            f"bridge fdb add 0e:00:00:00:00:77 dev {device} dst 10.0.0.77",
            f"ip link set {device} address 0e:00:00:00:00:78",
        ]
    line = soak.rng.choice(lines)
    run(place.host, line, check=False)
    return f"{place.host.name}: {line}"


def flap_uplink(soak: Soak) -> str:
    place = soak.any_place()
    run(place.host, f"ip link set {place.uplink} down")
    soak.pause(0, 1)
    run(place.host, f"ip link set {place.uplink} up")
    run(place.host, "ip route replace default via 10.0.0.1")
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
    run(place.host, "ip route replace default via 10.0.0.1")
    return f"{place.host.name}: {place.ip}"


def uplink_name(soak: Soak) -> str:
    place = soak.any_place()
    name = "uplink0" if place.uplink == "eth0" else "eth0"
    run(place.host, f"ip link set {place.uplink} down")
    run(place.host, f"ip link set {place.uplink} name {name}")
    run(place.host, f"ip link set {name} up")
    run(place.host, "ip route replace default via 10.0.0.1")
    place.uplink = name
    return f"{place.host.name}: {name}"


def flush_rules(soak: Soak) -> str:
    place = soak.any_place()
    line = soak.rng.choice(["nft flush ruleset", "iptables -F", "iptables -t nat -F", "nft flush table ip flannel-ipv4"])
    run(place.host, line, check=False)
    return f"{place.host.name}: {line}"


def toggle_firewall(soak: Soak) -> str:
    soak.configure(EnableNFTables=not soak.config["EnableNFTables"])
    return f"nftables: {soak.config['EnableNFTables']}"


def change_backend(soak: Soak) -> str:
    kind = soak.rng.choice([kind for kind in ("vxlan", "host-gw", "udp") if kind != soak.kind])
    soak.configure(Backend={"Type": kind})
    return kind


def change_setting(soak: Soak) -> str:
    if soak.kind != "vxlan":
        return change_backend(soak)
    backend = dict(soak.config["Backend"])
    key = soak.rng.choice(["VNI", "MTU"])
    backend[key] = {"VNI": 3 - backend.get("VNI", 1), "MTU": 1400 if not backend.get("MTU") else 0}[key]
    soak.configure(Backend=backend)
    return json.dumps(backend)


def change_port(soak: Soak) -> str:
    if soak.kind == "host-gw":
        return change_backend(soak)
    backend = dict(soak.config["Backend"])
    usual = {"vxlan": 8472, "udp": 8285}[soak.kind]
    backend["Port"] = usual + 1 if backend.get("Port", usual) == usual else usual
    soak.configure(Backend=backend)
    return json.dumps(backend)


def resize_network(soak: Soak) -> str:
    soak.configure(Network="10.240.0.0/12" if soak.config["Network"] == "10.244.0.0/16" else "10.244.0.0/16")
    return str(soak.config["Network"])


def delete_subnet_env(soak: Soak) -> str:
    place = soak.any_place()
    place.host.call(Path("/run/flannel/subnet.env").unlink)
    return place.host.name


def spoil_config(soak: Soak) -> str:
    """Nobody can serve it; then it is well again."""
    soak.world.configure(
        soak.rng.choice(["garbage", '{"Network": "10.0.0.0/16"}', '{"Network": "10.244.0.0/16", "Backend": {"Type": "x"}}'])
    )
    soak.pause(0, 1)
    soak.configure()
    return ""


def pods_come_and_go(soak: Soak) -> str:
    place = soak.any_place()
    place.host.pod("passing")
    place.host.remove_pod("passing")
    return place.host.name


@dataclass(frozen=True)
class Fault:
    do: Callable[[Soak], str]
    """Returns what exactly was done."""
    lossless: bool
    """No echo may be lost over it: it breaks nothing that packets need."""


FAULTS = {
    "kill -9 and restart": Fault(lambda soak: restart(soak, signal.SIGKILL), True),
    "SIGTERM and restart": Fault(lambda soak: restart(soak, signal.SIGTERM), True),
    "daemon stopped for a while": Fault(pause_daemon, True),
    "etcd killed and restarted": Fault(kill_etcd, True),
    "etcd hangs": Fault(pause_etcd, True),
    "etcd restored from a snapshot": Fault(restore_etcd, False),  # a lease is deleted for it
    "host cut off from etcd": Fault(cut_from_etcd, True),
    "etcd compacted": Fault(compact_etcd, True),
    "lease deleted": Fault(delete_lease, False),
    "everything in etcd deleted": Fault(wipe_etcd, True),
    "lease written over": Fault(write_over_lease, False),
    "peer comes, changes, goes": Fault(foreign_peer, True),
    "garbage in etcd": Fault(garbage_key, True),
    "route damaged": Fault(damage_route, False),
    "device or its entries damaged": Fault(damage_device, False),
    "uplink flaps": Fault(flap_uplink, False),
    "cable pulled": Fault(pull_cable, False),
    "uplink's MTU": Fault(uplink_mtu, True),
    "uplink's address": Fault(uplink_address, False),
    "uplink's name": Fault(uplink_name, False),
    "rules flushed": Fault(flush_rules, True),
    "nftables <-> iptables": Fault(toggle_firewall, True),
    "backend exchanged": Fault(change_backend, True),
    "VNI or MTU changed": Fault(change_setting, True),
    "port changed": Fault(change_port, False),
    "network resized": Fault(resize_network, True),
    "subnet.env deleted": Fault(delete_subnet_env, True),
    "config spoilt": Fault(spoil_config, True),
    "pods come and go": Fault(pods_come_and_go, True),
}


def subnets_of(soak: Soak) -> dict[str, str]:
    return {name: own_subnet(place.host) for name, place in soak.places.items()}
