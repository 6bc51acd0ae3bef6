"""host-local: who gets which address, and the files that the reference would find."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cni import host_local
from cni.ledger import Key
from cni.node import Node
from cni.spec import CniError, Code, Command
from cni_requests import bare_node, request

V4, V6 = {"subnet": "10.1.0.0/29"}, {"subnet": "fd00::/125"}
NAMESPACES = Path("/proc/self/ns")


class Pool:
    """host-local on a node of its own."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.node = node
        self.directory = directory / "networks"
        self.files = self.directory / "net"

    def conf(self, *ranges: list[dict[str, str]], **ipam: Any) -> dict[str, Any]:
        return {"ipam": {"type": "host-local", "dataDir": str(self.directory), "ranges": list(ranges or [[V4]]), **ipam}}

    def add(self, container: str, conf: dict[str, Any] | None = None, **about: Any) -> list[str]:
        result = host_local.add(request("host-local", conf or self.conf(), container=container, **about), self.node)
        return [str(ip.address.ip) for ip in result.ips]

    def delete(self, container: str, conf: dict[str, Any] | None = None) -> None:
        host_local.delete(request("host-local", conf or self.conf(), Command.DEL, container=container), self.node)

    def names(self) -> set[str]:
        return {file.name for file in self.files.iterdir()}


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(host_local, "LINK_GONE_S", 0.0)
    with bare_node(tmp_path) as node:
        yield Pool(node, tmp_path)


def test_each_range_set_gives_an_address_with_its_prefix_and_gateway(pool: Pool) -> None:
    result = host_local.add(request("host-local", pool.conf([V4], [V6], routes=[{"dst": "0.0.0.0/0"}])), pool.node)
    assert [(str(ip.address), str(ip.gateway)) for ip in result.ips] == [("10.1.0.2/29", "10.1.0.1"), ("fd00::2/125", "fd00::1")]
    assert [str(route.dst) for route in result.routes] == ["0.0.0.0/0"]


def test_files_are_the_references(pool: Pool) -> None:
    pool.add("c1", pool.conf([V4], [V6]))
    texts = {file.name: file.read_bytes() for file in pool.files.iterdir()}
    claim = b"c1\r\neth0"
    last = {"last_reserved_ip.0": b"10.1.0.2", "last_reserved_ip.1": b"fd00::2"}
    assert texts == {"10.1.0.2": claim, "fd00::2": claim} | last


def test_an_address_given_back_comes_last(pool: Pool) -> None:
    assert [pool.add(f"c{n}") for n in range(2)] == [["10.1.0.2"], ["10.1.0.3"]]
    pool.delete("c0")
    pool.delete("c0")
    assert [pool.add(f"d{n}") for n in range(4)] == [["10.1.0.4"], ["10.1.0.5"], ["10.1.0.6"], ["10.1.0.2"]]


def test_one_that_has_not_rested_comes_last_even_when_it_is_next(pool: Pool) -> None:
    for n in range(5):
        pool.add(f"c{n}")
    (pool.files / "last_reserved_ip.0").write_text("10.1.0.6")
    pool.delete("c0")
    pool.node.ledger._freed.clear()  # a minute later
    pool.delete("c1")
    (pool.files / "last_reserved_ip.0").write_text("10.1.0.2")
    assert pool.add("d0") == ["10.1.0.2"]
    assert pool.add("d1") == ["10.1.0.3"]


def test_a_pool_that_is_empty_says_so_and_takes_nothing(pool: Pool) -> None:
    for n in range(5):
        pool.add(f"c{n}", pool.conf([V4], [V6]))
    before = pool.names()
    with pytest.raises(CniError, match=r"no IP addresses available in range set: 10\.1\.0\.1-10\.1\.0\.6"):
        pool.add("d", pool.conf([V6 | {"subnet": "fd01::/64"}], [V4]))
    assert pool.names() == before
    assert pool.node.ledger.record(Key("net", "d", "eth0"), "host-local") is None


def test_a_foreign_claim_is_respected_and_stays(pool: Pool) -> None:
    pool.files.mkdir(parents=True)
    (pool.files / "10.1.0.2").write_text("stranger\r\neth0")
    assert pool.add("c1") == ["10.1.0.3"]
    pool.delete("c1")
    assert pool.names() == {"10.1.0.2", "last_reserved_ip.0"}


def test_a_claim_that_comes_between_is_not_taken_but_the_address_after_it(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = host_local._claim

    def late(directory: Path, ip: Any, key: Key) -> None:
        if str(ip) == "fd00::2":
            (directory / str(ip)).write_text("stranger\r\neth0")
        claim(directory, ip, key)

    monkeypatch.setattr(host_local, "_claim", late)
    assert pool.add("c1", pool.conf([V4], [V6]))[1] == "fd00::3"
    assert (pool.files / "fd00::2").read_bytes() == b"stranger\r\neth0"
    assert len(pool.node.ledger.records()) == 1


@pytest.mark.parametrize("text", ["c1\r\neth0", "c1\neth0\n", "c1"])
def test_what_the_reference_gave_is_given_back_by_us(pool: Pool, text: str) -> None:
    pool.files.mkdir(parents=True)
    (pool.files / "10.1.0.2").write_text(text)
    (pool.files / "10.1.0.3").write_text("c1\r\neth1")
    pool.delete("c1")
    assert pool.names() == {"10.1.0.3"}


def test_del_works_whatever_has_become_of_the_configuration(pool: Pool) -> None:
    pool.add("c1")
    pool.delete("c1", {"ipam": {"type": "host-local", "dataDir": str(pool.directory), "unheard": 1}})
    assert pool.names() == {"last_reserved_ip.0"}


def test_a_second_add_is_refused_and_the_first_stays(pool: Pool) -> None:
    pool.add("c1")
    with pytest.raises(CniError, match=r"10\.1\.0\.2 has been allocated to net/c1/eth0, duplicate allocation is not allowed"):
        pool.add("c1")
    assert "10.1.0.2" in pool.names()


def test_an_attachment_of_a_former_pod_gives_way(pool: Pool) -> None:
    former, now = (os.open(NAMESPACES / kind, os.O_RDONLY) for kind in ("net", "mnt"))
    assert pool.add("c1", netns=former, path=str(NAMESPACES / "net")) == ["10.1.0.2"]
    assert pool.add("c1", netns=now, path=str(NAMESPACES / "mnt")) == ["10.1.0.3"]
    assert pool.names() == {"10.1.0.3", "last_reserved_ip.0"}
    os.close(former)
    os.close(now)


@pytest.mark.parametrize(
    ("about", "more"),
    [
        ({}, {"runtimeConfig": {"ips": ["10.1.0.5/29"]}}),
        ({}, {"args": {"cni": {"ips": ["10.1.0.5"]}}}),
        ({"args": {"IP": "10.1.0.5"}}, {}),
        ({"args": {"IP": "10.1.0.9"}}, {"runtimeConfig": {"ips": ["10.1.0.5"]}}),
    ],
)
def test_an_address_may_be_asked_for_in_three_ways(pool: Pool, about: dict[str, Any], more: dict[str, Any]) -> None:
    assert pool.add("c1", pool.conf() | more, **about) == ["10.1.0.5"]


@pytest.mark.parametrize(
    ("ip", "message"),
    [
        ("10.1.0.1", "requested ip 10.1.0.1 is subnet's gateway"),
        ("10.1.0.2", "requested IP address 10.1.0.2 is not available in range set 10.1.0.1-10.1.0.6"),
        ("10.1.0.3", "requested IP address 10.1.0.3 is not available"),
        ("10.9.0.1", "failed to allocate all requested IPs: 10.9.0.1"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused(pool: Pool, ip: str, message: str) -> None:
    pool.add("c0")
    (pool.files / "10.1.0.3").write_text("stranger")
    before = pool.names()
    with pytest.raises(CniError) as error:
        pool.add("c1", args={"IP": ip})
    assert message in error.value.message
    assert pool.names() == before


def test_what_is_no_address_is_a_bad_request(pool: Pool) -> None:
    with pytest.raises(CniError, match="requested IP") as error:
        pool.add("c1", args={"IP": "me"})
    assert error.value.code == Code.INVALID_CONFIG


def test_gc_frees_what_no_valid_attachment_has_whoever_gave_it(pool: Pool) -> None:
    pool.add("c1")
    pool.add("c2")
    (pool.files / "10.1.0.4").write_text("c3\r\neth0")
    (pool.files / "10.1.0.5").write_text("c4\r\neth0")
    (pool.files / "10.1.0.6").write_text("c3")  # as the reference wrote it once
    valid = {Key("net", container, "eth0") for container in ("c1", "c3")}
    host_local.gc(request("host-local", pool.conf(), Command.GC), pool.node, valid)
    assert pool.names() == {"10.1.0.2", "10.1.0.4", "10.1.0.6", "last_reserved_ip.0"}


def test_check_knows_our_claims_and_the_references(pool: Pool) -> None:
    with pytest.raises(CniError, match="no address is allocated to net/c1/eth0"):
        host_local.check(request("host-local", pool.conf(), Command.CHECK), pool.node)
    pool.add("c1")
    host_local.check(request("host-local", pool.conf(), Command.CHECK), pool.node)
    (pool.files / "10.1.0.5").write_text("c4\r\neth0")
    host_local.check(request("host-local", pool.conf(), Command.CHECK, container="c4"), pool.node)


@pytest.mark.parametrize(
    ("conf", "code", "message"),
    [
        ({"ipam": {}}, Code.INVALID_CONFIG, "got neither subnet nor ranges"),
        ({"ipam": {"ranges": [[]]}}, Code.INVALID_CONFIG, "empty range set"),
        ({"ipam": {"ranges": [[V4], [V4]]}}, Code.INVALID_CONFIG, "overlap"),
        ({"ipam": {"subnet": "10.1.0.0/24", "rangs": 1}}, Code.UNSUPPORTED_FIELD, "unsupported field ipam.rangs"),
        ({"cniVersion": "0.2.0", "ipam": {"ranges": [[V4], [{"subnet": "10.2.0.0/24"}]]}}, Code.INVALID_CONFIG, "0.2.0"),
        ({"ipam": {"subnet": "10.1.0.0/24", "resolvConf": "/no/such"}}, Code.INVALID_CONFIG, "a readable file"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(pool: Pool, conf: dict[str, Any], code: Code, message: str) -> None:
    with pytest.raises(CniError) as error:
        host_local.add(request("host-local", conf), pool.node)
    assert (error.value.code, message in error.value.message) == (code, True)


def test_pools_of_networks_and_of_reopened_ledgers_are_kept_apart(tmp_path: Path) -> None:
    for expected in ("10.1.0.2", "10.1.0.3"):
        with bare_node(tmp_path) as node:
            pool = Pool(node, tmp_path)
            assert pool.add(expected.replace(".", "-")) == [expected]
            assert pool.add(f"x{expected}", pool.conf() | {"name": "other"}) == [expected]
            assert ip_address(expected) in node.ledger.taken(str(pool.files))
