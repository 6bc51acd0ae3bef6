"""The portmap plugin as the daemon calls it, with traffic: who reaches a pod by a host's port, and what happens to the port."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.spec import Code
from cni_node_world import NodeWorld, eventually, node_world
from cni_traffic import PATIENCE_S, UDP, service
from cni_world import ENVIRONMENT, Sandbox
from flanneld.linux import netns
from flanneld.linux.conntrack import HostPort, forget_connections
from flanneld.linux.netlink import Netlink
from flanneld.linux.nft_elements import NftSocket
from lab.place import Place
from scratch_netns import ScratchNetns

GATEWAY = ("10.244.7.1", "fd00:7::1")
WEB = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NodeWorld]:
    with node_world(tmp_path) as made:
        made.host.ip("link set lo up")
        yield made


def sandbox(scratch: ScratchNetns) -> Sandbox:
    return Sandbox(Place(scratch.name, (scratch.path,), ENVIRONMENT), scratch.path)


def portmap(result: dict[str, Any], *ports: dict[str, Any], **keys: Any) -> dict[str, Any]:
    told = {"cniVersion": "1.0.0", "name": "net", "type": "portmap", "prevResult": result}
    return told | {"runtimeConfig": {"portMappings": list(ports)}} | keys


class Mapped:
    """A pod with ports of the host."""

    def __init__(self, world: NodeWorld, container: str, *ports: dict[str, Any], **keys: Any) -> None:
        self.world, self.container = world, container
        self.scratch = world.pod()
        self.result = world.add(container, self.scratch)
        self.conf = portmap(self.result, *ports, **keys)
        answer = world.ask("ADD", container, self.scratch, self.conf)
        self.answer: dict[str, Any] = json.loads(answer.stdout)
        assert answer.exit_code == 0 or "code" in self.answer
        self.pod = sandbox(self.scratch)

    def ask(self, command: str) -> dict[str, Any]:
        answer = self.world.ask(command, self.container, self.scratch, self.conf)
        return json.loads(answer.stdout or "{}")  # type: ignore[no-any-return]


def test_the_hosts_loopback_leads_to_the_pod_and_that_of_ipv6_is_its_own(world: NodeWorld) -> None:
    web, host = Mapped(world, "c1", WEB), sandbox(world.host)
    with service(web.pod, 80) as by4:
        assert by4.reaches(host, "127.0.0.1", 8080) == GATEWAY[0]
    with service(web.pod, 80, address="::") as by6, service(host, 8080, address="::1") as own:
        assert by6.reaches(host, GATEWAY[1], 8080) == GATEWAY[1]
        assert own.reaches(host, "::1", 8080) == "::1"


def test_route_localnet_does_not_open_the_hosts_loopback_to_a_pod(world: NodeWorld) -> None:
    web, host = Mapped(world, "c1", WEB), sandbox(world.host)
    assert host.sysctl("net/ipv4/conf/cni0/route_localnet") == "1"
    web.pod.ip("link set lo down\nroute flush table local 127.0.0.0/8\nroute add 127.0.0.1 via 10.244.7.1 src 10.244.7.2")
    web.pod.place.call(Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text, "1")
    with service(host, 9999, address="127.0.0.1") as private:
        assert private.unreachable(web.pod, "127.0.0.1", 9999)
        host.place.run(["nft", "flush", "chain", "inet", "tartan-cni", "input"])
        assert private.reaches(web.pod, "127.0.0.1", 9999) == "10.244.7.2"


def test_without_snat_the_hosts_loopback_is_its_own(world: NodeWorld) -> None:
    Mapped(world, "c1", WEB, snat=False)
    assert sandbox(world.host).sysctl("net/ipv4/conf/cni0/route_localnet") == "0"


def test_a_port_of_a_living_pod_is_refused_with_its_holders_name(world: NodeWorld) -> None:
    web, other = Mapped(world, "c1", WEB), Mapped(world, "c2", WEB)
    assert other.answer["code"] == Code.TRY_LATER
    assert "8080" in other.answer["msg"]
    assert "net/c1/eth0" in other.answer["details"]
    with service(web.pod, 80) as server:
        assert server.reaches(sandbox(world.host), GATEWAY[0], 8080) == GATEWAY[0]
    web.ask("DEL")
    assert "code" not in other.ask("ADD")


def test_a_port_of_a_pod_that_is_no_more_is_free(world: NodeWorld) -> None:
    web = Mapped(world, "c1", WEB)
    netns.delete(web.scratch.path)
    assert eventually(lambda: not world.veths())
    other = Mapped(world, "c2", WEB)
    assert "code" not in other.answer
    with service(other.pod, 80) as server:
        assert server.reaches(sandbox(world.host), GATEWAY[0], 8080) == GATEWAY[0]


def test_one_address_of_the_host_may_lead_elsewhere_than_the_others(world: NodeWorld) -> None:
    world.host.ip("address add 192.0.2.1/32 dev lo")
    some, rest, host = Mapped(world, "c1", WEB | {"hostIP": "192.0.2.1"}), Mapped(world, "c2", WEB), sandbox(world.host)
    with service(some.pod, 80) as first, service(rest.pod, 80) as second:
        assert first.reaches(host, "192.0.2.1", 8080)
        assert second.reaches(host, GATEWAY[0], 8080)


def test_after_a_flush_the_node_maps_its_ports_again(world: NodeWorld) -> None:
    web, host = Mapped(world, "c1", WEB), sandbox(world.host)
    host.place.run(["nft", "flush", "ruleset"])
    assert "gone" in web.ask("CHECK")["msg"]
    world.run(world.node.reconcile)
    assert web.ask("CHECK") == {}
    with service(web.pod, 80) as server:
        assert server.reaches(host, GATEWAY[0], 8080) == GATEWAY[0]


def test_a_restarted_node_knows_the_ports_and_lets_them_go(world: NodeWorld) -> None:
    web, host = Mapped(world, "c1", WEB), sandbox(world.host)
    world.restart()
    world.run(world.node.reconcile)
    with service(web.pod, 80) as server:
        assert server.reaches(host, GATEWAY[0], 8080) == GATEWAY[0]
    web.ask("DEL")
    world.delete("c1", web.scratch)
    world.run(world.node.reconcile)
    assert host.place.run(["nft", "list", "tables"]).stdout == ""


def test_a_second_add_with_other_ports_replaces_the_first(world: NodeWorld) -> None:
    web, host = Mapped(world, "c1", WEB), sandbox(world.host)
    web.conf = portmap(web.result, WEB | {"hostPort": 8081})
    web.ask("ADD")
    with service(web.pod, 80) as server:
        assert server.reaches(host, GATEWAY[0], 8081) == GATEWAY[0]
        assert server.unreachable(host, GATEWAY[0], 8080)


def test_gc_takes_the_ports_of_those_that_are_not_valid(world: NodeWorld) -> None:
    web = Mapped(world, "c1", WEB)
    told = {"cniVersion": "1.1.0", "name": "net", "type": "portmap", "cni.dev/valid-attachments": []}
    assert world.ask("GC", "c1", None, told).exit_code == 0
    assert "gone" in web.ask("CHECK")["msg"]
    assert world.ask("STATUS", "c1", None, {**told, "cni.dev/valid-attachments": None}).exit_code == 0


def test_only_connections_to_ports_of_the_host_are_forgotten(world: NodeWorld) -> None:
    Mapped(world, "c1", WEB)  # so that connections are tracked
    host = sandbox(world.host)
    world.host.ip("route add 198.51.100.0/24 dev cni0")
    for address in (GATEWAY[0], "127.0.0.1", "198.51.100.1"):
        with host.place.call(socket.socket, socket.AF_INET, UDP) as client:
            client.settimeout(PATIENCE_S)
            client.sendto(b"x", (address, 5353))

    def forget(*ports: HostPort) -> int:
        with Netlink() as nl, NftSocket() as netfilter:
            return forget_connections(nl, netfilter, 17, ports)

    assert world.run(forget, HostPort(4, 53), HostPort(6, 5353)) == 0
    assert world.run(forget, HostPort(4, 5353)) == 2
    assert world.run(forget, HostPort(4, 53), HostPort(4, 5353)) == 0
