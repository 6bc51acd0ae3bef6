"""What is left of dead pods and dead processes goes; what is anybody else's stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from cni import journal
from cni.engine import UNANSWERED, Engine, Raw
from cni.ledger import HeldAddress, HeldFile, HeldLink, Key, Ledger, Record, State
from cni.veth import host_name
from cni_node_world import NodeWorld, addresses, eventually, node_world
from flanneld.linux import netns
from scratch_netns import ScratchNetns

KEY = Key("net", "c1", "eth0")
VETH = host_name(KEY)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NodeWorld]:
    with node_world(tmp_path) as made:
        yield made


def die_while_making(world: NodeWorld, pod: ScratchNetns) -> None:
    """The process is killed between making the pair and saying that it is made."""
    world.add("c1", pod)
    record = world.node.ledger.record(KEY, "bridge")
    assert record is not None
    world.node.ledger.write(replace(record, state=State.MAKING))
    world.restart()


def test_what_a_killed_process_was_making_is_replaced(world: NodeWorld) -> None:
    pod = world.pod()
    die_while_making(world, pod)
    world.delete("c1", pod, type="host-local")  # its address is the IPAM plugin's business
    result = world.add("c1", pod)
    (record,) = [record for record in world.node.ledger.records() if record.plugin == "bridge"]
    assert (record.state, world.veths(), len(addresses(result))) == (State.MADE, {VETH}, 2)
    assert world.links(pod) == {"lo", "eth0"}


def test_an_add_that_died_half_way_may_simply_be_repeated(world: NodeWorld) -> None:
    pod = world.pod()
    die_while_making(world, pod)
    assert len(world.add("c1", pod)["ips"]) == 2
    assert (world.veths(), world.links(pod), len(world.claims())) == ({VETH}, {"lo", "eth0"}, 2)


def test_what_a_daemon_made_that_died_before_it_said_so_goes_when_it_is_asked_again(world: NodeWorld) -> None:
    pod = world.pod()
    first = world.add("c1", pod)
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": str(pod.path), UNANSWERED: "1"}
    with pod.path.open() as netns:
        answer = world.run(Engine(world.node).answer, Raw("bridge", environ, json.dumps(world.conf()).encode(), netns.fileno()))
    again = addresses(json.loads(answer.stdout))
    assert not set(again) & set(addresses(first))
    assert (world.veths(), world.links(pod), world.claims()) == ({VETH}, {"lo", "eth0"}, set(again))


def test_a_name_that_no_file_can_have_leaves_nothing(world: NodeWorld) -> None:
    pod = world.pod()
    assert "name too long" in world.refused("ADD", "c1", pod, name="n" * 300).lower()
    assert (world.veths(), world.links(pod), world.node.ledger.records()) == (set(), {"lo"}, [])
    world.delete("c1", pod, name="n" * 300)


def test_what_a_killed_process_was_making_goes_at_the_next_start(world: NodeWorld) -> None:
    pod = world.pod()
    die_while_making(world, pod)
    assert world.run(world.node.reconcile) == 2  # the address too, which nobody but the plugin that died had asked for
    assert (world.veths(), world.links(pod)) == (set(), {"lo"})
    assert (world.claims(), world.node.ledger.records()) == (set(), [])


def test_a_pair_that_no_record_knows_of_is_in_nobodys_way(world: NodeWorld) -> None:
    world.host.ip(f"link add {VETH} type veth peer name left")
    world.add("c1", world.pod())
    assert (world.veths(), "left" in world.links()) == ({VETH}, False)


def test_a_foreign_ipam_plugin_gets_its_addresses_back_by_del(world: NodeWorld, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.touch()
    foreign = tmp_path / "foreign"
    answer = {"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24"}], "routes": [{"dst": "192.0.2.0/24", "gw": "198.51.100.1"}]}
    foreign.write_text(f"#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND >>{told}\necho '{json.dumps(answer)}'\n")
    foreign.chmod(0o755)
    pod = world.pod()
    assert "route 192.0.2.0/24 via 198.51.100.1" in world.refused("ADD", "c1", pod, ipam={"type": "foreign"})
    assert told.read_text().split() == ["ADD", "DEL"]
    world.delete("c1", pod, ipam={"type": "foreign"})
    assert told.read_text().split() == ["ADD", "DEL", "DEL"]
    assert (world.veths(), world.node.ledger.records()) == (set(), [])


def test_dead_pods_are_let_go_and_living_ones_are_not(world: NodeWorld) -> None:
    dead, living = world.pod(), world.pod()
    world.add("c1", dead)
    world.add("c2", living)
    netns.delete(dead.path)
    assert eventually(lambda: VETH not in world.links())
    assert world.run(world.node.reconcile) == 2
    assert {record.key.container_id for record in world.node.ledger.records()} == {"c2"}
    assert (world.claims(), world.links(living)) == ({"10.244.7.3", "fd00:7::3"}, {"lo", "eth0"})
    assert world.run(world.node.reconcile) == 0


def test_a_pod_whose_namespace_cannot_be_seen_is_not_taken_for_dead(world: NodeWorld) -> None:
    record = Record(KEY, "host-local", (HeldAddress(str(world.networks / "net"), ip_address("10.244.7.2")),), None, State.MADE)
    world.node.ledger.write(record)
    assert world.run(world.node.reconcile) == 0
    assert world.node.ledger.records() == [record]


def test_after_a_reboot_nobody_lives_and_addresses_are_free(
    world: NodeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = world.pod()
    world.add("c1", pod)
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(journal, "BOOT_ID", tmp_path / "boot_id")
    world.restart()
    assert world.run(world.node.reconcile) == 2
    assert (world.claims(), world.veths(), world.node.ledger.records()) == (set(), set(), [])
    assert addresses(world.add("c2", world.pod()))[0] == "10.244.7.3"
    world.restart()
    assert world.run(world.node.reconcile) == 0


def test_strangers_links_addresses_and_files_stay(world: NodeWorld) -> None:
    pool = world.networks / "net"
    pool.mkdir(parents=True)
    (pool / "10.244.7.2").write_text("stranger\r\neth0")
    world.host.ip("link add veth0123456789a type veth peer name other")
    pod = world.pod()
    assert addresses(world.add("c1", pod))[0] == "10.244.7.3"
    world.host.ip("address add 10.99.0.1/24 dev cni0")
    world.run(world.node.reconcile)
    world.delete("c1", pod)
    world.run(world.node.reconcile)
    assert world.links() == {"lo", "cni0", "veth0123456789a", "other"}
    assert world.claims() == {"10.244.7.2"}
    (cni0,) = world.host.read("ip address show cni0")
    assert "10.99.0.1" in {a["local"] for a in cni0["addr_info"]}


def test_a_claim_that_became_a_strangers_stays(world: NodeWorld) -> None:
    pod = world.pod()
    world.add("c1", pod)
    (world.networks / "net" / "10.244.7.2").write_text("stranger\r\neth0")
    world.delete("c1", pod)
    assert world.claims() == {"10.244.7.2"}


def test_files_of_a_record_go_with_it(world: NodeWorld, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.touch()
    world.node.ledger.write(Record(KEY, "flannel", (HeldFile(str(kept)),)))
    assert world.run(world.node.reconcile) == 1
    assert (kept.exists(), world.node.ledger.records()) == (False, [])


def test_a_link_that_was_on_its_way_out_when_the_process_died_goes(world: NodeWorld) -> None:
    pod = world.pod()
    world.add("c1", pod)
    world.node.ledger.write(Record(KEY, "bridge", (HeldLink(VETH),), None, State.GOING))
    world.restart()
    world.run(world.node.reconcile)
    assert (world.veths(), world.node.ledger.record(KEY, "bridge")) == (set(), None)


def test_the_node_works_without_its_ledgers_former_process(tmp_path: Path) -> None:
    with node_world(tmp_path) as world:
        pod = world.pod()
        world.add("c1", pod)
        world.restart()
        assert world.run(world.node.reconcile) == 0
        world.delete("c1", pod)
        assert world.veths() == set()
    with Ledger(tmp_path / "journal") as ledger:
        assert ledger.records() == []
