"""What can go wrong with daemons and the config, each done for real and undone; and the table of all that a soak draws from."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from soak_etcd_faults import (
    compact_etcd,
    cut_from_etcd,
    foreign_peer,
    garbage_key,
    kill_etcd,
    lose_lease,
    pause_etcd,
    restore_etcd,
    restore_first_etcd,
    wipe_etcd,
    write_over_lease,
)
from soak_host_faults import (
    damage_device,
    damage_route,
    delete_subnet_env,
    flap_uplink,
    flush_rules,
    pods_come_and_go,
    pull_cable,
    uplink_address,
    uplink_mtu,
    uplink_name,
)
from soak_state import Soak

UNSERVABLE = ("garbage", '{"Network": "10.0.0.0/16"}', '{"Network": "10.244.0.0/16", "Backend": {"Type": "x"}}')


def restart(soak: Soak, number: int) -> str:
    place = soak.any_place()
    one = soak.daemons[place.host.name]
    one.process.send_signal(signal.SIGCONT)  # it may be stopped
    one.end(number)
    soak.start(place)
    return place.host.name


def pause_daemon(soak: Soak) -> str:
    place = soak.any_place()
    process = soak.daemons[place.host.name].process
    process.send_signal(signal.SIGSTOP)
    soak.pause(0.5, 3)
    process.send_signal(signal.SIGCONT)
    return place.host.name


def toggle_firewall(soak: Soak) -> str:
    soak.configure(EnableNFTables=not soak.config["EnableNFTables"])
    return f"nftables: {soak.config['EnableNFTables']}"


def change_backend(soak: Soak) -> str:
    kind = soak.rng.choice([kind for kind in ("vxlan", "host-gw", "udp") if kind != soak.kind])
    soak.configure(Backend={"Type": kind})
    return kind


def change_backend_and_back(soak: Soak) -> str:
    """Before all hosts have followed, or while they still have both."""
    before = soak.config["Backend"]
    kind = change_backend(soak)
    soak.pause(0, 3)
    soak.configure(Backend=before)
    return f"{kind} and back"


def change_setting(soak: Soak) -> str:
    backend = dict(soak.config["Backend"])
    key = soak.rng.choice(["VNI", "MTU", "DirectRouting"])
    other = {
        "VNI": 3 - backend.get("VNI", 1),
        "MTU": 1400 if not backend.get("MTU") else 0,
        "DirectRouting": not backend.get("DirectRouting"),
    }
    soak.configure(Backend={**backend, key: other[key]})
    return f"{key} {other[key]}"


def change_port(soak: Soak) -> str:
    usual = {"vxlan": 8472, "udp": 8285}[soak.kind]
    port = usual + 1 if soak.config["Backend"].get("Port", usual) == usual else usual
    soak.configure(Backend={**soak.config["Backend"], "Port": port})
    return str(port)


def resize_network(soak: Soak) -> str:
    soak.configure(Network="10.240.0.0/12" if soak.config["Network"] == "10.244.0.0/16" else "10.244.0.0/16")
    return str(soak.config["Network"])


def spoil_config(soak: Soak) -> str:
    """Nobody can serve it; then it is well again."""
    text = soak.rng.choice(UNSERVABLE)
    soak.world.configure(text)
    soak.pause(0, 1)
    soak.configure()
    return text


@dataclass(frozen=True)
class Fault:
    """A kind of them."""

    do: Callable[[Soak], str]
    """Returns what exactly was done."""
    lossless: bool
    """No echo may be lost over it: it breaks nothing that packets need."""
    lasts: bool = False
    """Others may come in the middle of it."""
    on_host: bool = False
    """It needs no etcd, so it may come while that is away."""
    backends: tuple[str, ...] = ("vxlan", "host-gw", "udp")
    exchanges: bool = False
    """It leads to another backend."""


FAULTS = {
    "kill -9 and restart": Fault(lambda soak: restart(soak, signal.SIGKILL), lossless=True, on_host=True),
    "SIGTERM and restart": Fault(lambda soak: restart(soak, signal.SIGTERM), lossless=True, on_host=True),
    "daemon stopped for a while": Fault(pause_daemon, lossless=True, lasts=True, on_host=True),
    "etcd killed and restarted": Fault(kill_etcd, lossless=True, lasts=True),
    "etcd hangs": Fault(pause_etcd, lossless=True, lasts=True),
    "etcd restored from a snapshot": Fault(restore_etcd, lossless=False),  # a lease is missing in it
    "etcd restored as it began": Fault(restore_first_etcd, lossless=False),  # with other addresses
    "host cut off from etcd": Fault(cut_from_etcd, lossless=True, lasts=True),
    "etcd compacted": Fault(compact_etcd, lossless=True),
    "lease deleted or revoked": Fault(lose_lease, lossless=False),
    "everything in etcd deleted": Fault(wipe_etcd, lossless=True, lasts=True),
    "lease written over": Fault(write_over_lease, lossless=False),
    "peer comes, changes, goes": Fault(foreign_peer, lossless=True),
    "garbage in etcd": Fault(garbage_key, lossless=True),
    "route damaged": Fault(damage_route, lossless=False, on_host=True),
    "device or its entries damaged": Fault(damage_device, lossless=False, on_host=True, backends=("vxlan", "udp")),
    "uplink flaps": Fault(flap_uplink, lossless=False, lasts=True, on_host=True),
    "cable pulled": Fault(pull_cable, lossless=False, lasts=True, on_host=True),
    "uplink's MTU": Fault(uplink_mtu, lossless=True, on_host=True),
    "uplink's address": Fault(uplink_address, lossless=False, on_host=True),
    "uplink's name": Fault(uplink_name, lossless=False, on_host=True),
    "rules flushed": Fault(flush_rules, lossless=True, on_host=True),
    "nftables <-> iptables": Fault(toggle_firewall, lossless=True),
    "backend exchanged": Fault(change_backend, lossless=True, exchanges=True),
    "backend exchanged and back": Fault(change_backend_and_back, lossless=True, lasts=True, exchanges=True),
    "VNI, MTU, DirectRouting": Fault(change_setting, lossless=True, backends=("vxlan",)),
    "port changed": Fault(change_port, lossless=False, backends=("vxlan", "udp")),
    "network resized": Fault(resize_network, lossless=True),
    "subnet.env deleted": Fault(delete_subnet_env, lossless=True, on_host=True),
    "config spoilt": Fault(spoil_config, lossless=True, lasts=True),
    "pods come and go": Fault(pods_come_and_go, lossless=True),
}
