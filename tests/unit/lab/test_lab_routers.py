"""What a lab's routers are configured with: who is a neighbour, and what he is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lab.routers import render_bird, sessions_of
from lab.topology import Topology, parse_topology, read_topology

LEAF_SPINE = Path(__file__).parents[3] / "examples/leaf-spine.toml"
DUAL = {"name": "lan", "subnet": "10.0.0.0/24", "subnet6": "fd00::/64"}
LINKS = [{"name": f"link{n}", "subnet": f"10.9.{n}.0/29"} for n in (1, 2)]


def lan(host: dict[str, Any], *routers: dict[str, Any]) -> Topology:
    usual = {"asn": 65101, "addresses": ["10.0.0.254"]}
    return parse_topology(
        {"segment": [DUAL, *LINKS], "host": [{"name": "h1", **host}], "router": [usual | each for each in routers]}
    )


def neighbours(topology: Topology, name: str) -> dict[str, str]:
    """Each session's name and whom it is with."""
    (router,) = (router for router in topology.routers if router.name == name)
    return {session.name: str(session.neighbour.ip) for session in sessions_of(topology, router)}


def protocol(topology: Topology, name: str) -> str:
    """Of the first router's config, what it says of one session."""
    found = re.search(rf"^protocol bgp '{name}' {{\n(.*?)^}}", render_bird(topology, topology.routers[0]), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def test_neighbours_are_the_hosts_and_routers_of_its_segments() -> None:
    topology = read_topology(LEAF_SPINE)
    assert neighbours(topology, "leaf1") == {"h1": "10.0.1.11", "h2": "10.0.1.12", "spine": "10.1.1.3"}
    assert neighbours(topology, "spine") == {"leaf1": "10.1.1.2", "leaf2": "10.1.2.2"}


def test_a_host_of_both_families_has_a_session_by_each() -> None:
    topology = lan({}, {"name": "leaf", "addresses": ["10.0.0.254", "fd00::fe"]})
    assert neighbours(topology, "leaf") == {"h1": "10.0.0.11", "h1.v6": "fd00::11"}
    assert " ipv4 {" in protocol(topology, "h1")
    assert " ipv6 {" in protocol(topology, "h1.v6")


def test_two_routers_with_two_links_have_a_session_on_each() -> None:
    ends = [{"name": name, "addresses": [f"10.9.{n}.{place}" for n in (1, 2)]} for place, name in ((2, "a"), (3, "b"))]
    assert neighbours(lan({}, *ends), "a") == {"b.link1": "10.9.1.3", "b.link2": "10.9.2.3"}


def test_a_host_is_told_of_no_segment_and_of_nothing_that_was_in_its_own_as() -> None:
    said = protocol(lan({"asn": 65001}, {"name": "leaf"}), "h1")
    assert "neighbor 10.0.0.11 as 65001;" in said
    assert "export where source = RTS_BGP && !(net ~ SEGMENTS4) && !(bgp_path ~ [= * 65001 * =]);" in said


@pytest.mark.parametrize(("host", "words"), [({}, "neighbor 10.0.0.11 external;"), ({"asn": 65101}, "rr client;")])
def test_a_host_without_an_as_is_in_any_but_ours_and_one_in_ours_is_reflected_to(host: dict[str, Any], words: str) -> None:
    said = protocol(lan(host, {"name": "leaf"}), "h1")
    assert words in said
    assert "bgp_path" not in said


def test_bfd_is_with_hosts_and_with_routers_that_have_it_too() -> None:
    bfd, addresses = {"bfd": True}, ["10.9.1.3"]
    topology = lan(
        {},
        {"name": "leaf", "addresses": ["10.0.0.254", "10.9.1.2"], **bfd},
        {"name": "with", "addresses": addresses, **bfd},
        {"name": "without", "addresses": ["10.9.1.4"]},
    )
    assert "protocol bfd" in render_bird(topology, topology.routers[0])
    assert ["bfd on;" in protocol(topology, name) for name in ("h1", "with", "without")] == [True, True, False]
    assert "bfd" not in render_bird(topology, topology.routers[2])
