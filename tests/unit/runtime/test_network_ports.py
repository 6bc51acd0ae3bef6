"""Ports of the host for containers: read, chosen and held on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from runtime.config import PortBinding
from runtime.errors import EngineError, InvalidParameter
from runtime.networks.attach import mappings
from runtime.networks.ports import Ports, Wanted, all_ports, ephemeral_range, parse_port, wanted_ports

ONE, TWO = "a" * 64, "b" * 64
LOOPBACK = "127.0.0.1"


@pytest.fixture
def ports() -> Iterator[Ports]:
    held = Ports()
    yield held
    held.close()


@pytest.fixture
def free() -> range:
    """Two ports that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        first = int(probe.getsockname()[1])
    return range(first, first + 2)


def tcp(host_ports: range | None, address: str = LOOPBACK, container_port: int = 80) -> Wanted:
    return Wanted(container_port, "tcp", address, host_ports)


@pytest.mark.parametrize("text", ["", "80/icmp", "0x50", "90-80", "70000", "80/tcp/udp", "-1"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid port specification"):
        parse_port(text)


def test_ports_are_read_with_their_ranges_and_protocols() -> None:
    assert parse_port("80") == (80, 80, "tcp")
    assert parse_port("8000-8010/UDP") == (8000, 8010, "udp")


def test_exposed_ports_are_published_when_all_are_but_for_those_that_are_already() -> None:
    wanted = wanted_ports({"80/tcp": (PortBinding(host_port="8080"),)}, ["80/tcp", "53/udp"], publish_all=True)
    assert wanted == [Wanted(53, "udp", "", None), Wanted(80, "tcp", "", range(8080, 8081))]


def test_a_binding_without_a_port_is_any_port_and_a_default_address_counts() -> None:
    assert wanted_ports({"80/tcp": (PortBinding(),)}, (), False, LOOPBACK) == [Wanted(80, "tcp", LOOPBACK, None)]
    assert wanted_ports({"80/tcp": ()}, (), False) == [Wanted(80, "tcp", "", None)]


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="invalid IP address: nowhere"):
        wanted_ports({"80/tcp": (PortBinding(host_ip="nowhere", host_port="80"),)}, (), False)


def test_of_a_range_the_first_free_port_is_taken(ports: Ports, free: range) -> None:
    assert ports.take(ONE, [tcp(free)], (4,)) == {"80/tcp": (PortBinding(host_ip=LOOPBACK, host_port=str(free[0])),)}
    assert ports.take(TWO, [tcp(free)], (4,))["80/tcp"][0].host_port == str(free[1])
    with pytest.raises(EngineError, match=f"Bind for {LOOPBACK}:{free[0]} failed: port is already allocated"):
        ports.take("c" * 64, [tcp(free)], (4,))


def test_when_one_port_is_refused_none_is_held(ports: Ports, free: range) -> None:
    first, second = range(free[0], free[0] + 1), range(free[1], free[1] + 1)
    ports.take(ONE, [tcp(second)], (4,))
    with pytest.raises(EngineError, match="already allocated"):
        ports.take(TWO, [tcp(first), tcp(second, container_port=81)], (4,))
    ports.take("c" * 64, [tcp(first)], (4,))


def test_every_address_collides_with_each(ports: Ports, free: range) -> None:
    ports.take(ONE, [tcp(free[:1])], (4,))
    with pytest.raises(EngineError, match=r"Bind for 0\.0\.0\.0:\d+ failed: port is already allocated"):
        ports.take(TWO, [tcp(free[:1], "")], (4,))


def test_a_process_that_listens_there_is_named_as_docker_does(ports: Ports) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(EngineError, match=f"failed to bind host port {LOOPBACK}:{port}/tcp: address already in use"):
            ports.take(ONE, [tcp(range(port, port + 1))], (4,))


def test_what_was_freed_is_there_to_be_taken_by_processes_too(ports: Ports, free: range) -> None:
    ports.take(ONE, [tcp(free[:1])], (4,))
    with pytest.raises(OSError, match="in use"):
        socket.create_server((LOOPBACK, free[0]))
    ports.free(ONE)
    socket.create_server((LOOPBACK, free[0])).close()


def test_any_port_is_one_of_the_systems_range_and_not_the_same_twice(ports: Ports) -> None:
    taken = [int(ports.take(each * 64, [tcp(None)], (4,))["80/tcp"][0].host_port) for each in "abc"]
    first, last = ephemeral_range()
    assert len(set(taken)) == 3
    assert all(first <= port <= last for port in taken)


def test_an_address_of_a_family_that_the_container_has_not_is_refused(ports: Ports) -> None:
    with pytest.raises(EngineError, match="invalid host address ::1"):
        ports.take(ONE, [tcp(None, "::1")], (4,))


def test_mappings_are_told_once_for_both_families() -> None:
    both = (PortBinding(host_ip="0.0.0.0", host_port="8080"), PortBinding(host_ip="::", host_port="8080"))  # noqa: S104
    assert mappings({"80/tcp": both}) == [{"containerPort": 80, "protocol": "tcp", "hostPort": 8080}]
    (one,) = mappings({"53/udp": (PortBinding(host_ip=LOOPBACK, host_port="53"),)})
    assert one["hostIP"] == LOOPBACK


def test_exposed_ports_are_shown_without_a_place() -> None:
    assert all_ports(["80/tcp", "90-91"], {}) == {"80/tcp": (), "90/tcp": (), "91/tcp": ()}
