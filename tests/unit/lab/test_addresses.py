from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_interface

from hypothesis import given
from hypothesis import strategies as st

from flanneld.linux.pod import mac_of


@given(st.ip_addresses())
def test_a_mac_made_from_an_address_is_a_locally_administered_unicast_one(ip: IPv4Address | IPv6Address) -> None:
    first = int(mac_of(ip)[:2], 16)
    assert first & 0b11 == 0b10
    assert mac_of(ip) == mac_of(ip_interface(ip))
