"""Leases as flannel keeps them: its bytes, and whatever else may lie under the prefix."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.lease import Family, IPNetwork, Lease, LeaseAttrs, Subnets
from flanneld.stores.codec import BadLease, decode_key, decode_lease, encode_attrs, encode_key


def nets(*texts: str) -> Subnets:
    return tuple(map(ip_network, texts))


def attrs(*ips: str, kind: str = "", data: str = "", data6: str = "") -> LeaseAttrs:
    both: tuple[tuple[Family, str], ...] = ((4, data), (6, data6))
    return LeaseAttrs(tuple(map(ip_address, ips)), kind, tuple((family, text) for family, text in both if text))


KEYS = {
    "10.5.72.0-24": nets("10.5.72.0/24"),
    "10.77.54.0-24&fd77:0:0:30::-64": nets("10.77.54.0/24", "fd77:0:0:30::/64"),
    "0.0.0.0-0&fd77:0:0:30::-64": nets("fd77:0:0:30::/64"),
}
VXLAN = '{"VNI":1,"VtepMAC":"fa:4f:bb:a6:ee:c4"}'
VALUES = {
    f'{{"PublicIP":"172.31.99.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{VXLAN}}}': (
        attrs("172.31.99.1", kind="vxlan", data=VXLAN)
    ),
    '{"PublicIP":"172.31.99.2","PublicIPv6":null}': attrs("172.31.99.2"),
    '{"PublicIP":"172.31.99.2","PublicIPv6":null,"BackendType":"host-gw"}': attrs("172.31.99.2", kind="host-gw"),
    f'{{"PublicIP":"172.31.99.1","PublicIPv6":"fd31:99::1","BackendType":"vxlan","BackendData":1,"BackendV6Data":{VXLAN}}}': (
        attrs("172.31.99.1", "fd31:99::1", kind="vxlan", data="1", data6=VXLAN)
    ),
    f'{{"PublicIP":"0.0.0.0","PublicIPv6":"fd31:99::1","BackendType":"vxlan","BackendV6Data":{VXLAN}}}': (
        attrs("fd31:99::1", kind="vxlan", data6=VXLAN)
    ),
    '{"PublicIP":"172.31.99.2","PublicIPv6":null,"BackendType":"extension","BackendData":"text"}': (
        attrs("172.31.99.2", kind="extension", data='"text"')
    ),
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_flannels_both_ways(key: str) -> None:
    assert encode_key(KEYS[key]) == key
    assert decode_key(key) == KEYS[key]


@pytest.mark.parametrize("value", VALUES)
def test_values_are_flannels_both_ways(value: str) -> None:
    assert encode_attrs(VALUES[value]) == value.encode()
    assert decode_lease("10.5.72.0-24", value.encode()) == Lease(nets("10.5.72.0/24"), VALUES[value])


@pytest.mark.parametrize("text", ["fd77:0000:0:0030:0:0:0:0", "FD77:0:0:30::", "fd77::30:0:0:0:0", "fd77:0:0:30::0.0.0.0"])
def test_any_text_of_an_ipv6_subnet_is_read(text: str) -> None:
    assert decode_key(f"10.77.54.0-24&{text}-64") == KEYS["10.77.54.0-24&fd77:0:0:30::-64"]


@pytest.mark.parametrize(
    "value",
    [
        '{"publicip":"172.31.99.2","PUBLICIPV6":null}',
        '{"PublicIP":"172.31.99.2"}',
        ' { "New" : {"a": [1e9]}, "PublicIP" : "172.31.99.2", "BackendType":null, "BackendData":null } ',
        '{"PublicIP":"172.31.99.2","PublicIPv6":""}',
    ],
)
def test_values_are_read_as_tolerantly_as_go_reads_them(value: str) -> None:
    assert decode_lease("10.5.72.0-24", value.encode()).attrs == attrs("172.31.99.2")


def test_backend_data_is_kept_as_compact_json() -> None:
    lease = decode_lease("10.5.72.0-24", b'{"PublicIP":"172.31.99.2", "backenddata": {"b": 1, "a": [1.0, "x"]} }')
    assert lease.attrs.data(4) == '{"b":1,"a":[1.0,"x"]}'


@pytest.mark.parametrize(
    "key",
    [
        "",
        "config",
        "10.5.72.0",
        "10.5.72.0-33",
        "10.5.72.1-24",
        "10.5.72.256-24",
        "010.5.72.0-24",
        "10.5.72.0-24/x",
        "10.5.72.0-24\n",
        "10.5.72.0-2\N{FULLWIDTH DIGIT FOUR}",
        "10.5.72.0-24&",
        "10.5.72.0-24&fd77::1-64",
        "10.5.72.0-24&::-0",
        "0.0.0.0-0",
        "0.0.0.0-0&::-0",
        "fd77::-64",
    ],
)
def test_a_bad_key_is_named(key: str) -> None:
    with pytest.raises(BadLease) as bad:
        decode_lease(key, b'{"PublicIP":"172.31.99.2"}')
    assert (bad.value.key, bad.value.subnets) == (key, ())
    assert repr(key) in str(bad.value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "Expecting value"),
        ("null", "expected a JSON object, got NoneType"),
        ("{}", "neither PublicIP nor PublicIPv6 has an address"),
        ('{"PublicIP":"0.0.0.0"}', "neither PublicIP nor PublicIPv6 has an address"),
        ('{"PublicIP":"1.2.3"}', "1.2.3"),
        ('{"PublicIP":"fd00::1"}', "fd00::1"),
        ('{"PublicIP":7}', "PublicIP: expected a string, got 7"),
        ('{"PublicIP":"1.2.3.4","PublicIPv6":"fe80::1%eth0"}', "expected an address without a zone"),
        ('{"PublicIP":"1.2.3.4","BackendType":["vxlan"]}', "BackendType: expected a string"),
        ('{"PublicIP":"1.2.3.4","BackendType":"\\u001b[2J"}', "BackendType: expected printable text"),
        ('{"PublicIP":"1.2.3.4","BackendData":NaN}', "NaN is not JSON"),
        ('{"PublicIP":' + "[" * 100_000, "nested too deeply"),
        ('{"PublicIP":' + "1" * 10_000 + "}", "Exceeds the limit"),
        ('{"PublicIP":"' + "x" * 10_000 + '"}', "xxx"),
    ],
)
def test_a_bad_value_is_named_with_its_subnets_and_in_one_short_line(value: str, why: str) -> None:
    with pytest.raises(BadLease) as bad:
        decode_lease("10.5.72.0-24", value.encode())
    assert bad.value.subnets == nets("10.5.72.0/24")
    assert why in str(bad.value)
    assert "\n" not in str(bad.value)
    assert len(str(bad.value)) < 400


def subnets_of(version: int) -> st.SearchStrategy[IPNetwork]:
    bits = 32 if version == 4 else 128
    return st.builds(
        lambda address, length: ip_network((ip_address(address.packed), length), strict=False),
        st.ip_addresses(v=4 if version == 4 else 6),
        st.integers(1, bits),
    )


leased = (
    st.tuples(subnets_of(4)) | st.tuples(subnets_of(6)) | st.tuples(subnets_of(4), subnets_of(6))
)  # no /0: flannel's word for "none"
ipv4s = st.ip_addresses(v=4).filter(lambda ip: int(ip) != 0)
ips = st.tuples(ipv4s) | st.tuples(st.ip_addresses(v=6)) | st.tuples(ipv4s, st.ip_addresses(v=6))
json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
compact = json_values.map(lambda value: json.dumps(value, separators=(",", ":")))
data = (
    st.just(())
    | st.tuples(st.tuples(st.just(4), compact))
    | st.tuples(st.tuples(st.just(4), compact), st.tuples(st.just(6), compact))
)
kinds = st.text().filter(str.isprintable)
leases = st.builds(Lease, leased, st.builds(LeaseAttrs, ips, kinds, data))


@given(leases)
def test_what_is_written_is_read_back(lease: Lease) -> None:
    assert decode_lease(encode_key(lease.subnets), encode_attrs(lease.attrs)) == lease


@given(st.text(), st.binary())
def test_any_bytes_are_a_lease_or_a_bad_lease(key: str, value: bytes) -> None:
    with suppress(BadLease):
        decode_lease(key, value)
    with pytest.raises(BadLease):
        decode_lease("10.5.72.0-24", value)


@given(st.dictionaries(st.sampled_from(["PublicIP", "publicipv6", "BackendType", "BackendData", "x"]), json_values | st.none()))
def test_any_json_is_a_lease_or_a_bad_lease(fields: dict[str, object]) -> None:
    with suppress(BadLease):
        decode_lease("10.5.72.0-24", json.dumps(fields).encode())


@given(st.from_regex(r"[0-9.]{1,15}-[0-9]{1,3}(&[0-9a-f:]{1,39}-[0-9]{1,3})?", fullmatch=True))
def test_any_likely_key_is_subnets_or_a_bad_lease(key: str) -> None:
    with suppress(BadLease):
        subnets = decode_key(key)
        assert decode_key(encode_key(subnets)) == subnets
