"""Address ranges: which address comes next, and which ranges make no sense."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.config import Section
from cni.ranges import Range, RangeSet, check_apart, choose, parse_range, parse_range_set
from cni.result import IPAddress
from cni.spec import CniError, Code


def made(**told: str) -> Range:
    return parse_range(Section(told))


def range_set(*told: dict[str, str]) -> RangeSet:
    return parse_range_set([Section(each) for each in told], "ipam.ranges")


def order(wanted: RangeSet, last: str | None, count: int = 100) -> list[str]:
    return [str(ip) for ip, _ in islice(wanted.after(ip_address(last) if last else None), count)]


def chosen(wanted: RangeSet, last: str | None = None, taken: set[str] | None = None, tired: set[str] | None = None) -> str:
    def free(ip: IPAddress) -> bool:
        return str(ip) not in (taken or ())

    def rested(ip: IPAddress) -> bool:
        return str(ip) not in (tired or ())

    return str(choose(wanted, ip_address(last) if last else None, free, rested)[0])


def refused(**told: str) -> str:
    with pytest.raises(CniError) as error:
        made(**told)
    assert error.value.code == Code.INVALID_CONFIG
    return error.value.message


SMALL = range_set({"subnet": "10.1.0.0/29"})
TWO = range_set({"subnet": "10.1.0.0/29", "rangeEnd": "10.1.0.3"}, {"subnet": "10.2.0.0/29", "rangeStart": "10.2.0.4"})


def test_a_subnet_is_a_range_without_network_broadcast_and_gateway() -> None:
    assert made(subnet="10.1.0.0/29") == Range(
        ip_network("10.1.0.0/29"), ip_address("10.1.0.1"), ip_address("10.1.0.6"), ip_address("10.1.0.1")
    )
    assert order(SMALL, None) == [f"10.1.0.{n}" for n in range(2, 7)]


def test_ipv6_has_no_broadcast_address() -> None:
    assert order(range_set({"subnet": "fd00::/126"}), None) == ["fd00::2", "fd00::3"]


def test_a_gateway_elsewhere_leaves_its_usual_place_to_pods() -> None:
    assert order(range_set({"subnet": "10.1.0.0/29", "gateway": "10.1.0.4"}), None)[:4] == [f"10.1.0.{n}" for n in (1, 2, 3, 5)]


def test_the_next_address_is_behind_the_last_and_the_last_itself_comes_last() -> None:
    assert order(SMALL, "10.1.0.4") == [f"10.1.0.{n}" for n in (5, 6, 2, 3, 4)]
    assert order(SMALL, "10.1.0.6") == [f"10.1.0.{n}" for n in (2, 3, 4, 5, 6)]


def test_ranges_of_a_set_follow_each_other_round_and_round() -> None:
    assert order(TWO, "10.1.0.3") == ["10.2.0.4", "10.2.0.5", "10.2.0.6", "10.1.0.2", "10.1.0.3"]
    assert order(TWO, "10.2.0.6") == ["10.1.0.2", "10.1.0.3", "10.2.0.4", "10.2.0.5", "10.2.0.6"]
    assert order(TWO, "10.2.0.4") == ["10.2.0.5", "10.2.0.6", "10.1.0.2", "10.1.0.3", "10.2.0.4"]


@pytest.mark.parametrize("last", [None, "10.1.0.7", "192.0.2.1", "fd00::1"])
def test_a_last_address_of_another_configuration_is_no_matter(last: str | None) -> None:
    assert order(TWO, last) == ["10.1.0.2", "10.1.0.3", "10.2.0.4", "10.2.0.5", "10.2.0.6"]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True), st.data())
def test_every_address_comes_once_whatever_was_last(places: list[int], data: st.DataObject) -> None:
    base = int(IPv4Address("10.0.0.0"))
    told = []
    for place in places:
        low = data.draw(st.integers(1, 14))
        high = data.draw(st.integers(low, 14))
        first, last = (str(IPv4Address(base + 16 * place + n)) for n in (low, high))
        told.append({"subnet": f"{IPv4Address(base + 16 * place)}/28", "rangeStart": first, "rangeEnd": last})
    wanted = range_set(*told)
    expected = {
        str(IPv4Address(n)) for each in wanted.ranges for n in range(int(each.first), int(each.last) + 1) if n != int(each.gateway)
    }
    after = data.draw(st.none() | st.sampled_from(sorted(expected)) if expected else st.none())
    found = order(wanted, after, 1000)
    assert (set(found), len(found)) == (expected, len(expected))
    assert after is None or found[-1] == after


def test_an_address_that_has_not_rested_is_the_last_choice() -> None:
    tired = {f"10.1.0.{n}" for n in (2, 3, 4, 6)}
    assert chosen(SMALL, "10.1.0.2", tired=tired) == "10.1.0.5"
    assert chosen(SMALL, "10.1.0.2", taken={"10.1.0.5"}, tired=tired) == "10.1.0.3"


def test_a_range_set_that_is_full_is_an_error_that_names_it() -> None:
    everything = set(order(TWO, None))
    with pytest.raises(
        CniError, match=r"^no IP addresses available in range set: 10\.1\.0\.1-10\.1\.0\.3,10\.2\.0\.4-10\.2\.0\.6$"
    ):
        chosen(TWO, taken=everything)


def test_a_large_range_is_not_walked_through_to_begin_with() -> None:
    assert chosen(range_set({"subnet": "fd00::/64"}), "fd00::ffff:ffff:ffff:fffe") == "fd00::ffff:ffff:ffff:ffff"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "subnet: got null, expected a network, as 10.1.0.0/16"),
        ({"subnet": "x"}, 'subnet: got "x", expected a network without host bits'),
        ({"subnet": "10.1.0.1/24"}, 'subnet: got "10.1.0.1/24", expected a network without host bits'),
        ({"subnet": "10.1.0.0/31"}, "too small to allocate from"),
        ({"subnet": "fd00::/127"}, "too small to allocate from"),
        ({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}, 'rangeStart: got "10.2.0.1", expected an address of 10.1.0.0/24'),
        ({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.0"}, "rangeStart: "),
        ({"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.255"}, 'rangeEnd: got "10.1.0.255"'),
        ({"subnet": "10.1.0.0/24", "rangeEnd": "fd00::1"}, "rangeEnd: "),
        ({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}, "expected none above rangeEnd 10.1.0.8"),
        ({"subnet": "10.1.0.0/24", "gateway": "me"}, 'gateway: got "me", expected an IP address'),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(told: dict[str, str], message: str) -> None:
    assert message in refused(**told)


def test_a_range_set_is_not_empty_and_of_one_family() -> None:
    with pytest.raises(CniError, match=r"ipam\.ranges: got an empty range set"):
        range_set()
    with pytest.raises(CniError, match="mixed address families in a range set"):
        range_set({"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"})


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ({"subnet": "10.1.0.0/24"}, {"subnet": "10.1.1.0/24"}, True),
        ({"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}, True),
        ({"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.9"}, {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10"}, True),
        ({"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.9"}, {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9"}, False),
        ({"subnet": "10.1.0.0/16"}, {"subnet": "10.1.7.0/24"}, False),
    ],
)
def test_ranges_overlap_or_not_across_sets_and_inside_of_one(one: dict[str, Any], other: dict[str, Any], apart: bool) -> None:
    arrangements = [[range_set(one), range_set(other)], [range_set(other), range_set(one)]]
    arrangements += [[range_set(one, other)]] if ":" not in other["subnet"] else []
    for sets in arrangements:
        if apart:
            check_apart(sets)
        else:
            with pytest.raises(CniError, match="overlap, expected each address in one"):
                check_apart(sets)
