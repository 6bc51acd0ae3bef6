"""Names of containers, asked for inside containers on a host of their own; others' names go to a server beyond the host."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest

from flanneld.linux import netns
from runtime.config import ContainerConfig, EndpointSettings
from runtime_nets import NEIGHBOUR_ADDRESS, NetworksWorld, networks_world

SERVER = "127.0.0.11"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NetworksWorld]:
    with networks_world(tmp_path, dns=(NEIGHBOUR_ADDRESS,)) as made:
        made.create("mine")
        yield made


def look_up(world: NetworksWorld, asker: str, name: str, kind: str = "A", *, tcp: bool = False) -> list[str]:
    """What the container's DNS says: the answer's values, or the code's name when it is an error."""
    question = dns.message.make_query(name, kind)
    query = dns.query.tcp if tcp else dns.query.udp
    reply = world.host.inside(world.path(asker), query, question, SERVER, timeout=5)
    if reply.rcode() != dns.rcode.NOERROR:
        return [dns.rcode.to_text(reply.rcode())]
    return sorted(str(value) for rrset in reply.answer for value in rrset)


@contextmanager
def upstream(world: NetworksWorld) -> Iterator[list[str]]:
    """The neighbour serves names: 198.51.100.1 for all; yields what it was asked for."""
    asked: list[str] = []
    server = netns.run_in(world.machine.neighbour.path, socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((NEIGHBOUR_ADDRESS, 53))

    def answer() -> None:
        with suppress(OSError):
            while True:
                wire, whom = server.recvfrom(4096)
                if not wire:  # shut down
                    return
                query = dns.message.from_wire(wire)
                reply = dns.message.make_response(query)
                name = query.question[0].name
                asked.append(name.to_text(omit_final_dot=True))
                reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "198.51.100.1"))
                server.sendto(reply.to_wire(), whom)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield asked
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def test_a_container_answers_to_its_name_its_aliases_its_id_and_its_networks_name(world: NetworksWorld) -> None:
    world.start("web", "mine", asked={"mine": EndpointSettings(aliases=("www",))}, config=ContainerConfig(hostname="box"))
    joined = world.start("one", "mine")
    address = world.address("web", "mine")
    identity = world.records["web"].id
    for name in ("web", "WEB", "www", "box", identity[:12], "web.mine", "www.mine"):
        assert look_up(world, "one", name) == [address], name
    assert look_up(world, "one", "web", tcp=True) == [address]
    assert look_up(world, "one", "web", "AAAA") == []
    assert look_up(world, "one", str(dns.reversename.from_address(address)), "PTR") == ["web.mine."]
    assert "nameserver 127.0.0.11\n" in joined.resolv_conf
    assert "options ndots:0" in joined.resolv_conf


def test_several_of_one_alias_are_all_told(world: NetworksWorld) -> None:
    for name in ("web1", "web2"):
        world.start(name, "mine", asked={"mine": EndpointSettings(aliases=("web",))})
    world.start("one", "mine")
    assert look_up(world, "one", "web") == sorted(world.address(name, "mine") for name in ("web1", "web2"))


def test_others_names_are_asked_of_the_hosts_server(world: NetworksWorld) -> None:
    world.start("one", "mine")
    with upstream(world) as asked:
        assert look_up(world, "one", "example.org") == ["198.51.100.1"]
        assert asked == ["example.org"]


def test_a_container_of_an_internal_network_asks_nobody_else(world: NetworksWorld) -> None:
    world.create("inside", internal=True)
    world.start("one", "inside")
    with upstream(world) as asked:
        assert look_up(world, "one", "example.org") == ["NXDOMAIN"]
        assert asked == []


def test_names_follow_what_happens_at_once(world: NetworksWorld) -> None:
    world.create("other")
    world.start("web", "mine")
    world.start("one", "other")
    joined = world.connect("one", "mine")
    assert look_up(world, "one", "web") == [world.address("web", "mine")]
    assert joined.endpoints["mine"].ip_address in joined.etc_hosts
    world.rename("web", "site")
    assert look_up(world, "one", "site") == [world.address("site", "mine")]
    world.disconnect("site", "mine")
    with upstream(world):
        assert look_up(world, "one", "site") == ["198.51.100.1"]


def test_a_container_may_have_port_53_for_itself(world: NetworksWorld) -> None:
    world.start("web", "mine")
    world.start("one", "mine")
    with world.host.inside(world.path("one"), socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("0.0.0.0", 53))  # noqa: S104
        assert look_up(world, "one", "web") == [world.address("web", "mine")]


def test_the_next_engine_answers_too(world: NetworksWorld) -> None:
    world.start("web", "mine")
    world.start("one", "mine")
    world.restart(running=("web", "one"))
    assert look_up(world, "one", "web") == [world.address("web", "mine")]


def test_a_link_is_a_name_for_who_has_it(world: NetworksWorld) -> None:
    world.start("web", "mine")
    world.start("one", "mine", links=("web:db",))
    assert look_up(world, "one", "db") == [world.address("web", "mine")]
    world.start("old")
    assert f"{world.address('old')}\tdb" in world.start("linked", links=("old:db",)).etc_hosts
