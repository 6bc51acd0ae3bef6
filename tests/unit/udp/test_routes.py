from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_network

from hypothesis import given
from hypothesis import strategies as st

from flanneld.backends.udp.routes import PrefixTable

addresses = st.integers(0, 0xFFFFFFFF)
# Few distinct addresses, so that prefixes nest.
crowded = st.sampled_from([0x0A050000, 0x0A050100, 0x0A050101, 0x0A050180, 0x0A060000, 0xFFFFFFFF]) | addresses
prefixes = st.builds(lambda address, length: IPv4Network((address, length), strict=False), crowded, st.integers(0, 32))


def longest_match(entries: dict[IPv4Network, str], address: int) -> str | None:
    matches = [prefix for prefix in entries if IPv4Address(address) in prefix]
    return entries[max(matches, key=lambda prefix: prefix.prefixlen)] if matches else None


@given(st.dictionaries(prefixes, st.text(max_size=3), max_size=12), crowded)
def test_lookup_finds_what_a_search_through_all_prefixes_finds(entries: dict[IPv4Network, str], address: int) -> None:
    assert PrefixTable(entries).lookup(address) == longest_match(entries, address)


def test_the_longer_of_two_prefixes_wins_whatever_their_order() -> None:
    wide, narrow = ip_network("10.5.0.0/16"), ip_network("10.5.2.0/24")
    for order in ((wide, narrow), (narrow, wide)):
        table = PrefixTable({prefix: str(prefix) for prefix in order if isinstance(prefix, IPv4Network)})
        assert table.lookup(int(IPv4Address("10.5.2.9"))) == "10.5.2.0/24"
        assert table.lookup(int(IPv4Address("10.5.3.9"))) == "10.5.0.0/16"


def test_an_empty_table_knows_nobody() -> None:
    assert PrefixTable({}).lookup(0) is None
