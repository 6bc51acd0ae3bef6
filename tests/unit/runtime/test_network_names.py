"""Who is called what, and what DNS says of it; no sockets."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st

from runtime.config import EndpointSettings
from runtime.networks.dns import NO_SUCH_NAME, Answering, answer, is_reply_to, refusal
from runtime.networks.names import IPAddress, addresses_by_name, name_by_address, split_link
from runtime.networks.sandbox import Attached, Sandbox


def attached(network: str, address: str, *aliases: str, has_names: bool = True, six: str = "") -> Attached:
    settings = EndpointSettings(aliases=aliases, ip_address=address, global_ipv6_address=six)
    return Attached(
        network_id=network * 64, network=network, driver="bridge", ifname="eth0", config="", has_names=has_names, settings=settings
    )


def sandbox(name: str, *everywhere: Attached, links: tuple[str, ...] = ()) -> Sandbox:
    return Sandbox(
        id=name.encode().hex().ljust(64, "0"), name=name, netns="", attached=everywhere, links=links, hostname=f"h{name}"
    )


WEB = sandbox("web", attached("a", "10.0.0.2", "www", six="fd00::2"), attached("b", "10.1.0.2"))
DB = sandbox("db", attached("b", "10.1.0.3", "www"))
OLD = sandbox("old", attached("d", "172.17.0.9", has_names=False))
ALL = [WEB, DB, OLD]


def names(asker: Sandbox, name: str) -> list[str] | None:
    found = addresses_by_name(asker, ALL, name)
    return None if found is None else [str(each) for each in found]


def test_names_are_known_in_common_networks_alone() -> None:
    assert names(DB, "web") == ["10.1.0.2"]
    assert names(sandbox("one", attached("c", "10.2.0.2")), "web") is None
    assert names(OLD, "old") is None


def test_a_name_says_all_addresses_in_common_networks() -> None:
    assert names(WEB, "web") == ["10.0.0.2", "fd00::2", "10.1.0.2"]
    assert names(WEB, "www") == ["10.0.0.2", "fd00::2", "10.1.0.3"]


def test_names_may_have_any_case_a_dot_and_their_network_behind() -> None:
    for name in ("WEB.", "web.b", "hweb", WEB.id[:12], "Web.B."):
        assert names(DB, name) == ["10.1.0.2"], name
    assert names(DB, "web.a") is None
    assert names(DB, "web.example.org") is None


def test_a_link_is_known_to_who_has_it_alone() -> None:
    linked = sandbox("one", attached("b", "10.1.0.4"), links=("web:shop", "/db:/one/store"))
    assert names(linked, "shop") == ["10.1.0.2"]
    assert names(linked, "store.b") == ["10.1.0.3"]
    assert names(DB, "shop") is None


def test_an_address_has_a_name_in_its_network() -> None:
    assert name_by_address(DB, ALL, ip_address("10.1.0.2")) == "web.b"
    assert name_by_address(DB, ALL, ip_address("10.0.0.2")) is None


def test_links_are_written_in_three_ways() -> None:
    assert [split_link(text) for text in ("web", "web:w", "/web:/one/w")] == [("web", "web"), ("web", "w"), ("web", "w")]


def knowing(**known: list[str]) -> Answering:
    def addresses(name: str) -> list[IPAddress] | None:
        return [ip_address(text) for text in known[name]] if name in known else None

    return Answering(addresses, lambda ip: "web.net" if str(ip) == "10.0.0.2" else None)


def asked(name: str, kind: str = "A", knows: Answering | None = None) -> dns.message.Message | None:
    wire = dns.message.make_query(name, kind).to_wire()
    reply = answer(wire, knows or knowing(web=["10.0.0.2", "fd00::2"]))
    return None if reply is None else dns.message.from_wire(reply)


def values(reply: dns.message.Message | None) -> list[str]:
    assert reply is not None
    return sorted(str(value) for rrset in reply.answer for value in rrset)


def test_answers_have_the_addresses_of_the_type_that_is_asked_for() -> None:
    assert values(asked("web")) == ["10.0.0.2"]
    assert values(asked("web", "AAAA")) == ["fd00::2"]
    assert values(asked("web", "MX")) == []
    assert values(asked("2.0.0.10.in-addr.arpa", "PTR")) == ["web.net."]


def test_what_is_nobodys_is_left_to_others() -> None:
    for name, kind in (("other", "A"), ("3.0.0.10.in-addr.arpa", "PTR"), ("x.in-addr.arpa", "PTR"), ("web.org", "A")):
        assert asked(name, kind) is None, (name, kind)


def test_an_answer_that_does_not_fit_is_cut() -> None:
    many = knowing(web=[f"10.0.{place}.1" for place in range(200)])
    wire = dns.message.make_query("web", "A").to_wire()
    cut = dns.message.from_wire(answer(wire, many) or b"")
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    assert len(values(dns.message.from_wire(answer(wire, many, limit=0xFFFF) or b""))) == 200


def test_a_refusal_is_a_reply_to_what_was_asked() -> None:
    wire = dns.message.make_query("other.org", "A").to_wire()
    reply = refusal(wire, NO_SUCH_NAME)
    assert dns.message.from_wire(reply).rcode() == dns.rcode.NXDOMAIN
    assert is_reply_to(reply, wire)
    assert not is_reply_to(wire, wire)
    assert not is_reply_to(b"", wire)


@given(st.binary(max_size=80))
def test_any_bytes_are_answered_left_or_refused(wire: bytes) -> None:
    with suppress(dns.exception.DNSException):
        answer(wire, knowing(web=["10.0.0.2"]))
