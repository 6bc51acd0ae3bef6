from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.linux.pod import mac_of
from lab import LabError
from lab.pods import _free
from lab.topology import IPInterface


@given(st.integers(24, 30), st.integers(0, 100))
def test_pods_get_every_address_once_but_the_bridges_and_the_broadcast(length: int, count: int) -> None:
    subnet = ip_network(f"10.244.7.0/{length}")
    taken: set[IPInterface] = set()
    for _ in range(min(count, subnet.num_addresses - 3)):
        taken.add(_free(subnet, taken))
    assert all(ip.ip in subnet for ip in taken)
    assert not {subnet[0], subnet[1], subnet[-1]} & {ip.ip for ip in taken}
    assert len(taken) == min(count, subnet.num_addresses - 3)


def test_a_full_subnet_is_an_error_that_names_it() -> None:
    with pytest.raises(LabError, match=r"no free address left in 10\.244\.7\.0/30: 1 pods have them"):
        _free(ip_network("10.244.7.0/30"), {ip_interface("10.244.7.2/30")})


@given(st.ip_addresses())
def test_a_mac_made_from_an_address_is_a_locally_administered_unicast_one(ip: IPv4Address | IPv6Address) -> None:
    first = int(mac_of(ip_interface(ip))[:2], 16)
    assert first & 0b11 == 0b10
