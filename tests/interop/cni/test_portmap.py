"""The portmap plugin, by what it lets through: host ports from everywhere, and gone after DEL."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import pytest

from cni_chain import Chain, host_local, ips
from cni_traffic import HOST, OUTSIDE, PATIENCE_S, TCP, UDP, outside, service
from cni_world import Attachment, CniHost, Json, Sandbox

POD4, POD6 = "10.1.2.0/24", "2001:db8:1::/64"
GATEWAY = "10.1.2.1"


def tcp(host_port: int, container_port: int, **keys: Any) -> Json:
    return {"hostPort": host_port, "containerPort": container_port, "protocol": "tcp", **keys}


def udp(host_port: int, container_port: int) -> Json:
    return tcp(host_port, container_port) | {"protocol": "udp"}


@dataclass(frozen=True)
class Mapped:
    """A pod with ports of the host."""

    chain: Chain
    attachment: Attachment
    result: Json
    ports: list[Json]

    @property
    def pod(self) -> Sandbox:
        return self.chain.host.of(self.attachment)

    def delete(self, *, remembered: bool = True) -> None:
        self.chain.delete(self.attachment, self.result if remembered else None, portMappings=self.ports)


def mapped(host: CniHost, *ports: Json, subnets: tuple[str, ...] = (POD4,), **keys: Any) -> Mapped:
    bridge = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "ipam": host_local(*subnets)}
    chain = Chain(host, (bridge, {"type": "portmap", "capabilities": {"portMappings": True}, **keys}))
    attachment = host.attachment()
    return Mapped(chain, attachment, chain.add(attachment, portMappings=list(ports)), list(ports))


def test_a_host_port_is_reached_from_outside_with_the_callers_address(host: CniHost) -> None:
    beyond, web = outside(host), mapped(host, tcp(8080, 80))
    with service(web.pod, 80) as server:
        assert server.reaches(beyond, HOST[0], 8080) == OUTSIDE[0]
        assert server.unreachable(beyond, HOST[0], 8081)


def test_a_host_port_is_reached_from_the_host_by_each_of_its_addresses(host: CniHost) -> None:
    outside(host)
    web = mapped(host, tcp(8080, 80))
    with service(web.pod, 80) as server:
        for address in (HOST[0], GATEWAY):
            assert server.reaches(host, address, 8080) == address
        assert server.reaches(host, "127.0.0.1", 8080) == GATEWAY


def test_a_pod_reaches_itself_by_its_host_port(host: CniHost) -> None:
    outside(host)
    web = mapped(host, tcp(8080, 80))
    with service(web.pod, 80) as server:
        assert server.reaches(web.pod, HOST[0], 8080) == GATEWAY
        assert server.reaches(web.pod, GATEWAY, 8080) == GATEWAY


def test_another_pod_of_the_network_reaches_a_host_port(host: CniHost) -> None:
    outside(host)
    web, client = mapped(host, tcp(8080, 80)), mapped(host)
    with service(web.pod, 80) as server:
        assert server.reaches(client.pod, HOST[0], 8080) == GATEWAY


@pytest.mark.parametrize("remembered", [True, False])
def test_after_del_the_port_is_the_hosts_again(host: CniHost, *, remembered: bool) -> None:
    beyond, web = outside(host), mapped(host, tcp(8080, 80))
    with service(web.pod, 80) as server, service(host, 8080) as own:
        server.reaches(beyond, HOST[0], 8080)
        web.delete(remembered=remembered)
        assert own.reaches(beyond, HOST[0], 8080) == OUTSIDE[0]


def test_udp_is_mapped_besides_tcp_on_one_port(host: CniHost) -> None:
    beyond, dns = outside(host), mapped(host, tcp(53, 1053), udp(53, 2053))
    with service(dns.pod, 1053, TCP) as by_tcp, service(dns.pod, 2053, UDP) as by_udp:
        assert by_tcp.reaches(beyond, HOST[0], 53) == OUTSIDE[0]
        assert by_udp.reaches(beyond, HOST[0], 53) == OUTSIDE[0]


def test_ipv6_is_mapped_for_a_pod_with_both_families(host: CniHost) -> None:
    beyond, web = outside(host), mapped(host, tcp(8080, 80), subnets=(POD4, POD6))
    with service(web.pod, 80, address="::") as server:
        assert server.reaches(beyond, HOST[1], 8080) == OUTSIDE[1]
        assert server.reaches(host, HOST[1], 8080) == HOST[1]
        assert server.reaches(web.pod, HOST[1], 8080) == "2001:db8:1::1"


def test_a_port_of_one_host_address_is_not_mapped_on_the_others(host: CniHost) -> None:
    beyond, web = outside(host), mapped(host, tcp(8080, 80, hostIP=HOST[0]))
    with service(web.pod, 80) as server:
        assert server.reaches(beyond, HOST[0], 8080) == OUTSIDE[0]
        assert server.unreachable(beyond, GATEWAY, 8080)


@pytest.mark.parametrize("anywhere", ["", "0.0.0.0", "::"])  # noqa: S104
def test_a_host_address_that_stands_for_all_is_all_of_its_family(host: CniHost, anywhere: str) -> None:
    beyond, web = outside(host), mapped(host, tcp(8080, 80, hostIP=anywhere), subnets=(POD4, POD6))
    family = 1 if ":" in anywhere else 0
    with service(web.pod, 80, address="::") as server:
        assert server.reaches(beyond, HOST[family], 8080).endswith(OUTSIDE[family])


@pytest.mark.parametrize("protocol", ["TCP", "Tcp"])
def test_a_protocol_may_be_written_in_capitals(host: CniHost, protocol: str) -> None:
    beyond, web = outside(host), mapped(host, tcp(8080, 80) | {"protocol": protocol})
    with service(web.pod, 80) as server:
        assert server.reaches(beyond, HOST[0], 8080) == OUTSIDE[0]


def test_pods_have_their_own_ports_and_lose_only_these(host: CniHost) -> None:
    beyond, one, two = outside(host), mapped(host, tcp(8081, 80)), mapped(host, tcp(8082, 80), tcp(8083, 80))
    with service(one.pod, 80) as first, service(two.pod, 80) as second:
        assert first.reaches(beyond, HOST[0], 8081) == OUTSIDE[0]
        assert second.reaches(beyond, HOST[0], 8082) == OUTSIDE[0]
        one.delete()
        assert second.reaches(beyond, HOST[0], 8083) == OUTSIDE[0]
        assert first.unreachable(beyond, HOST[0], 8081)


def test_udp_goes_to_the_second_pod_after_it_took_the_port_of_the_first(host: CniHost) -> None:
    beyond, first = outside(host), mapped(host, udp(5353, 53))
    with beyond.place.call(socket.socket, socket.AF_INET, UDP) as client:
        client.settimeout(PATIENCE_S)
        client.connect((HOST[0], 5353))
        assert answered(client, first.pod) == b"answer"
        first.delete()
        second = mapped(host, udp(5353, 53))
        assert answered(client, second.pod) == b"answer"


def test_udp_of_a_caller_that_was_there_first_goes_to_the_pod(host: CniHost) -> None:
    beyond = outside(host)
    with (
        beyond.place.call(socket.socket, socket.AF_INET, UDP) as client,
        host.place.call(socket.socket, socket.AF_INET, UDP) as own,
    ):
        client.settimeout(PATIENCE_S)
        client.connect((HOST[0], 5353))
        own.bind((HOST[0], 5353))
        client.send(b"too early")
        own.recv(100)
        web = mapped(host, udp(5353, 53))
        assert answered(client, web.pod) == b"answer"


def answered(client: socket.socket, pod: Sandbox) -> bytes:
    """What a caller that keeps its port hears."""
    with pod.place.call(socket.socket, socket.AF_INET, UDP) as server:
        server.settimeout(PATIENCE_S)
        server.bind(("0.0.0.0", 53))  # noqa: S104
        client.send(b"call")
        _, caller = server.recvfrom(100)
        server.sendto(b"answer", caller)
        return client.recv(100)


def test_many_ports_of_one_pod_are_mapped_at_once(host: CniHost) -> None:
    beyond, web = outside(host), mapped(host, *(tcp(9000 + n, 80) for n in range(20)), *(udp(9000 + n, 80) for n in range(20)))
    with service(web.pod, 80, TCP) as by_tcp, service(web.pod, 80, UDP) as by_udp:
        for port in (9000, 9019):
            assert by_tcp.reaches(beyond, HOST[0], port) == by_udp.reaches(beyond, HOST[0], port) == OUTSIDE[0]
    web.delete()


def test_a_second_add_of_the_same_container_changes_nothing(host: CniHost) -> None:
    beyond, web = outside(host), mapped(host, tcp(8080, 80))
    portmap = web.chain.plugins[1] | {"name": "net", "cniVersion": "1.0.0", "prevResult": web.result}
    portmap["runtimeConfig"] = {"portMappings": web.ports}
    assert ips(host.add(portmap, web.attachment)) == ips(web.result)
    host.delete(portmap, web.attachment)
    with service(web.pod, 80) as server:
        assert server.unreachable(beyond, HOST[0], 8080)
