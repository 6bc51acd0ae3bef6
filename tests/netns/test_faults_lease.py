"""A lease is never wrong for long: whatever the store forgets, each host finds its own subnet again, and two never use one."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from flanneld_world import (
    NETWORK,
    PREFIX,
    World,
    eventually,
    flanneld_world,
    hostgw_lease,
    own_subnet,
    peer_entries,
    readyz,
    run,
    subnet_env,
    vxlan_entries,
    vxlan_lease,
)
from traffic import address_of, meshed, ping, steady_ping

OTHER = ("10.0.0.99", "0e:00:00:00:00:02")


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world(3) as up:
        yield up


def subnets_of(world: World) -> dict[str, str]:
    return {one.host.name: own_subnet(one.host) for one in world.daemons}


def holders(world: World) -> dict[str, str]:
    """Which public IP holds which subnet, as `10.244.7.0`."""
    return {name.partition("-")[0]: json.loads(key.value)["PublicIP"] for name, key in world.etcd.keys().items()}


def test_all_leases_wiped_at_once_are_claimed_again_and_no_packet_is_lost(world: World) -> None:
    one, two, _ = meshed(world)
    before = holders(world)
    with steady_ping(one, address_of(two)) as there:
        world.etcd.delete(f"{PREFIX}/")
        eventually(lambda: holders(world) == before, "the same claims")
        time.sleep(3)  # until the hosts trust the store again
    assert there.lost == 0
    assert all(vxlan_entries(daemon.host) for daemon in world.daemons)


def test_an_old_snapshot_gives_nobody_a_subnet_that_is_not_his(world: World) -> None:
    """h1 had .40 then and has .50 now, h2 the other way round."""
    ips = {"h1": "10.0.0.11", "h2": "10.0.0.12"}
    first, second = "10.244.40.0-24", "10.244.50.0-24"
    day = world.etcd.grant(86400)
    world.etcd.put(f"{PREFIX}/subnets/{first}", hostgw_lease(ips["h2"]), day)
    world.etcd.put(f"{PREFIX}/subnets/{second}", hostgw_lease(ips["h1"]), day)
    one, two, _ = meshed(world)
    assert (own_subnet(world.lab.host("h1")), own_subnet(world.lab.host("h2"))) == ("10.244.50.0", "10.244.40.0")
    now = holders(world)
    # What a restore does: the present keys are gone, those of then are there.
    lease = world.etcd.grant(86400)
    world.etcd.delete(f"{PREFIX}/subnets/")
    world.etcd.put(f"{PREFIX}/subnets/{first}", hostgw_lease(ips["h1"]), lease)
    world.etcd.put(f"{PREFIX}/subnets/{second}", hostgw_lease(ips["h2"]), lease)
    eventually(lambda: holders(world) == now, "each has its own again")
    assert [daemon.process.poll() for daemon in world.daemons] == [None] * 3
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")


def test_a_subnet_that_another_host_keeps_is_lost_loudly_and_its_pods_are_named(world: World) -> None:
    one, *_ = meshed(world)
    loser = world.daemons[0]
    name = f"{own_subnet(loser.host)}-24"
    world.etcd.put(f"{PREFIX}/subnets/{name}", vxlan_lease(*OTHER))
    eventually(lambda: "lease: lost" in readyz(loser.host)[1], "the state")
    lost = loser.await_said("lease lost")
    assert (lost["level"], lost["subnet"]) == ("error", name.replace("-", "/"))
    assert str(address_of(one)) in lost["pods"]
    assert "10.0.0.99" in lost["why"]
    eventually(lambda: "lease: lost" in readyz(loser.host)[1], "the state, still")
    assert "10.0.0.99" in loser.fails()
    assert not subnet_env(loser.host), "nobody is to start a pod there"
    assert holders(world)[own(name)] == "10.0.0.99"
    again = world.start("h1").ready()
    assert own_subnet(again.host) != own(name)


def own(name: str) -> str:
    return name.partition("-")[0]


def cut(world: World, host: str) -> None:
    """Take the host off its segment."""
    run(world.lab.fabric, f"ip link set {host} down")


def join(world: World, host: str) -> None:
    run(world.lab.fabric, f"ip link set {host} up")


@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
def test_a_lease_that_expired_during_a_partition(world: World, taken: bool) -> None:
    meshed(world)
    away = world.daemons[0]
    name = f"{own_subnet(away.host)}-24"
    cut(world, "h1")
    world.etcd.delete(f"{PREFIX}/subnets/{name}")  # as the expiry does
    peers = [daemon.host for daemon in world.daemons[1:]]
    for peer in peers:
        eventually(lambda peer=peer: name.replace("-", "/") not in run(peer, "ip route"), "no route to the host")  # type: ignore[misc]
    if taken:
        world.etcd.put(f"{PREFIX}/subnets/{name}", vxlan_lease(*OTHER), world.etcd.grant(86400))
    join(world, "h1")
    if taken:
        assert "10.0.0.99" in away.fails()
        assert holders(world)[own(name)] == "10.0.0.99"
        return
    away.await_said("lease claimed again", 30)
    assert own_subnet(away.host) == own(name)
    for peer in peers:
        eventually(lambda peer=peer: name.replace("-", "/") in run(peer, "ip route"), "the route again")  # type: ignore[misc]


def test_a_reservation_stays_one_through_restarts(world: World) -> None:
    world.etcd.put(f"{PREFIX}/subnets/10.244.33.0-24", hostgw_lease("10.0.0.11"))
    for _ in range(2):
        one = world.start("h1").ready()
        assert own_subnet(one.host) == "10.244.33.0"
        assert {name: key.lease for name, key in world.etcd.keys().items()} == {"10.244.33.0-24": 0}
        one.end(signal.SIGKILL)


def test_a_reservation_for_nobody_is_never_given_away() -> None:
    pool = {**NETWORK, "Network": "10.244.0.0/22", "SubnetLen": 24}
    with flanneld_world(2, pool) as world:
        world.etcd.put(f"{PREFIX}/subnets/10.244.1.0-24", hostgw_lease("10.0.0.77"))
        for name in ("h1", "h2"):
            world.start(name).ready()
        assert holders(world)["10.244.1.0"] == "10.0.0.77"
        assert set(subnets_of(world).values()) == {"10.244.2.0", "10.244.3.0"}


@pytest.mark.parametrize("change", ["ip", "mac", "subnet", "all"])
def test_a_peer_that_is_another_now_is_followed_at_once_and_nothing_of_before_stays(world: World, change: str) -> None:
    """From the put to the kernel in well under 200 ms; the measured time is printed."""
    host = world.start("h1").ready().host
    subnet, ip, mac = "10.244.9.0", *OTHER
    world.etcd.put(f"{PREFIX}/subnets/{subnet}-24", vxlan_lease(ip, mac))
    eventually(lambda: vxlan_entries(host) == peer_entries(subnet, ip, mac), "the peer")
    after = (
        "10.244.8.0" if change in ("subnet", "all") else subnet,
        "10.0.0.88" if change in ("ip", "all") else ip,
        "0e:00:00:00:00:88" if change in ("mac", "all") else mac,
    )
    began = time.monotonic()
    if after[0] != subnet:
        world.etcd.delete(f"{PREFIX}/subnets/{subnet}-24")
    world.etcd.put(f"{PREFIX}/subnets/{after[0]}-24", vxlan_lease(*after[1:]))
    eventually(lambda: vxlan_entries(host) == peer_entries(*after), "the peer as it is now")
    print(f"{change}: {(time.monotonic() - began) * 1000:.0f} ms, the look itself included")


def test_peers_that_departed_while_the_daemon_was_down_are_gone_right_after_its_start(world: World) -> None:
    one = world.start("h1").ready()
    for place in range(5, 9):
        world.etcd.put(f"{PREFIX}/subnets/10.244.{place}.0-24", vxlan_lease(f"10.0.0.{place + 50}", f"0e:00:00:00:00:0{place}"))
    eventually(lambda: len(vxlan_entries(one.host)) == 12, "four peers")
    one.end(signal.SIGKILL)
    world.etcd.delete(f"{PREFIX}/subnets/10.244.5.0-24")
    world.etcd.delete(f"{PREFIX}/subnets/10.244.6.0-24")
    assert len(vxlan_entries(one.host)) == 12
    world.start("h1").ready()
    assert len(vxlan_entries(one.host)) == 6


def test_garbage_written_over_our_lease_is_written_over_by_us(world: World) -> None:
    one = world.start("h1").ready()
    ((name, key),) = world.etcd.keys().items()
    world.etcd.put(f"{PREFIX}/subnets/{name}", "garbage")
    eventually(lambda: world.etcd.keys()[name].value == key.value, "our lease")
    assert one.process.poll() is None


def test_what_somebody_else_writes_into_our_lease_is_written_over_by_us(world: World) -> None:
    """Peers would send to a MAC that is nobody's, for as long as this stays."""
    one = world.start("h1").ready()
    ((name, key),) = world.etcd.keys().items()
    world.etcd.put(f"{PREFIX}/subnets/{name}", vxlan_lease("10.0.0.11", "0e:00:00:00:00:77"), key.lease)
    eventually(lambda: world.etcd.keys()[name].value == key.value, "our lease")
    assert one.await_said("lease was written over by somebody, and is published again")["level"] == "warning"


def test_a_public_ip_that_changed_while_the_daemon_was_down_keeps_the_subnet(world: World) -> None:
    one = world.start("h1").ready()
    before = own_subnet(one.host)
    one.end()
    run(one.host, "ip addr flush dev eth0")
    run(one.host, "ip addr add 10.0.0.61/24 dev eth0")
    run(one.host, "ip route replace default via 10.0.0.1")
    again = world.start("h1").ready()
    assert own_subnet(again.host) == before
    assert holders(world) == {before: "10.0.0.61"}
