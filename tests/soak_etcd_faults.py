"""What can happen to etcd and to what is in it, each done for real and undone."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

from flanneld_world import PREFIX, hostgw_lease, vxlan_lease
from soak_state import Soak

NOBODY = ("10.244.3.0", "10.244.5.0")
"""The subnets of a host that does not exist."""
FIRST = "first"
"""The snapshot of the soak's begin."""
ETCDCTL = ("etcdctl", "--endpoints=http://127.0.0.1:2379")
PEER_URL = "http://127.0.0.1:2380"


def kill_etcd(soak: Soak) -> str:
    soak.end_etcd()
    soak.pause(0.2, 5)
    soak.start_etcd()
    return ""


def pause_etcd(soak: Soak) -> str:
    soak.etcd.send_signal(signal.SIGSTOP)
    soak.pause(0.5, 8)
    soak.etcd.send_signal(signal.SIGCONT)
    return ""


def save_snapshot(soak: Soak, name: str) -> Path:
    path = soak.lab.directory / "fabric" / name
    soak.lab.fabric.run([*ETCDCTL, "snapshot", "save", str(path)])
    return path


def restore_etcd(soak: Soak) -> str:
    """From a snapshot taken just after a lease was lost."""
    victim = soak.any_place()
    soak.world.etcd.delete(soak.key_of(victim))
    snapshot = save_snapshot(soak, "snapshot")
    soak.pause(0.5, 1)
    _restore(soak, snapshot)
    snapshot.unlink()
    return f"without {victim.host.name}"


def restore_first_etcd(soak: Soak) -> str:
    """From the snapshot of the soak's begin: config, addresses and MACs of that time; the config is put right after a while."""
    _restore(soak, soak.lab.directory / "fabric" / FIRST)
    soak.pause(0, 1)
    soak.configure()
    return ""


def _restore(soak: Soak, snapshot: Path) -> None:
    soak.end_etcd()
    data = soak.lab.directory / "fabric" / "etcd"
    shutil.rmtree(data)
    where = [f"--data-dir={data}", "--name=default", f"--initial-cluster=default={PEER_URL}"]
    soak.lab.fabric.run(["etcdctl", "snapshot", "restore", str(snapshot), *where, f"--initial-advertise-peer-urls={PEER_URL}"])
    soak.start_etcd()


def cut_from_etcd(soak: Soak) -> str:
    place = soak.any_place()
    soak.lab.fabric.run(["nft", "add table ip cut; add chain ip cut in { type filter hook input priority 0; }"])
    soak.lab.fabric.run(["nft", f"add rule ip cut in ip saddr {place.ip} tcp dport 2379 drop"])
    soak.pause(1, 8)
    soak.lab.fabric.run(["nft", "delete table ip cut"])
    return place.host.name


def compact_etcd(soak: Soak) -> str:
    status = soak.lab.fabric.run([*ETCDCTL, "endpoint", "status", "-w", "json"]).stdout
    revision = json.loads(status)[0]["Status"]["header"]["revision"]
    soak.lab.fabric.run([*ETCDCTL, "compact", str(revision)], check=False)  # it may be done already
    return ""


def lose_lease(soak: Soak) -> str:
    """An administrator deletes the key, or has its lease end."""
    place = soak.any_place()
    key = soak.world.etcd.keys().get(f"{soak.subnet_of(place)}-24")
    if key and key.lease and soak.rng.random() < 0.5:
        soak.lab.fabric.run([*ETCDCTL, "lease", "revoke", f"{key.lease:x}"])
        return f"{place.host.name}: revoked"
    soak.world.etcd.delete(soak.key_of(place))
    return f"{place.host.name}: deleted"


def wipe_etcd(soak: Soak) -> str:
    soak.world.etcd.delete(f"{PREFIX}/")
    soak.pause(0, 1)
    soak.configure()
    return ""


def write_over_lease(soak: Soak) -> str:
    place = soak.any_place()
    text = soak.rng.choice(["garbage", vxlan_lease(place.ip, "0e:00:00:00:00:66")])
    soak.reserved.add(soak.subnet_of(place))
    soak.world.etcd.put(soak.key_of(place), text)
    return f"{place.host.name}: {text[:11]}"


def foreign_peer(soak: Soak) -> str:
    """One that comes, changes its address, MAC and subnet, and goes; hosts have to follow each time."""
    first, second = NOBODY
    for subnet, ip, mac in ((first, "200", "02:00"), (first, "201", "02:00"), (first, "201", "02:01"), (second, "201", "02:01")):
        soak.world.etcd.put(f"{PREFIX}/subnets/{subnet}-24", _lease(soak, f"10.0.0.{ip}", f"0e:00:00:00:{mac}"))
        if subnet == second:
            soak.world.etcd.delete(f"{PREFIX}/subnets/{first}-24")
        soak.guests = {subnet}
        soak.settle()
    soak.world.etcd.delete(f"{PREFIX}/subnets/{second}-24")
    soak.guests = set()
    return ""


def _lease(soak: Soak, ip: str, mac: str) -> str:
    if soak.kind == "vxlan":
        return vxlan_lease(ip, mac, soak.config["Backend"].get("VNI", 1))
    return hostgw_lease(ip) if soak.kind == "host-gw" else f'{{"PublicIP":"{ip}","PublicIPv6":null}}'


def garbage_key(soak: Soak) -> str:
    text = soak.rng.choice(["", "{", '{"PublicIP":"nowhere"}', "[]"])
    soak.world.etcd.put(f"{PREFIX}/subnets/{NOBODY[0]}-24", text)
    soak.world.etcd.put(f"{PREFIX}/subnets/nonsense", "x")
    soak.settle()
    soak.world.etcd.delete(f"{PREFIX}/subnets/nonsense")
    soak.world.etcd.delete(f"{PREFIX}/subnets/{NOBODY[0]}-24")
    return repr(text)
