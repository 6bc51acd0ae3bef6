"""subnet.env, byte for byte flannel's."""

from __future__ import annotations

import os
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.lease import IPAddress, IPNetwork
from flanneld.subnet_env import SubnetEnv, SubnetEnvError, parse, read, render, write

V4_TEXT = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
V4 = SubnetEnv((ip_network("10.5.0.0/16"),), (ip_network("10.5.72.0/24"),), 1450, ip_masq=True)
DUAL_TEXT = """\
FLANNEL_NETWORK=10.77.0.0/16
FLANNEL_SUBNET=10.77.18.1/24
FLANNEL_IPV6_NETWORK=fd77::/48
FLANNEL_IPV6_SUBNET=fd77:0:0:30::1/64
FLANNEL_MTU=1430
FLANNEL_IPMASQ=false
"""
DUAL = SubnetEnv(
    (ip_network("10.77.0.0/16"), ip_network("fd77::/48")),
    (ip_network("10.77.18.0/24"), ip_network("fd77:0:0:30::/64")),
    1430,
    ip_masq=False,
)
V6_TEXT = "FLANNEL_IPV6_NETWORK=fd77::/48\nFLANNEL_IPV6_SUBNET=fd77:0:0:30::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n"
V6 = SubnetEnv(DUAL.networks[1:], DUAL.subnets[1:], 1430, ip_masq=False)


@pytest.mark.parametrize(("env", "text"), [(V4, V4_TEXT), (DUAL, DUAL_TEXT), (V6, V6_TEXT)], ids=["v4", "dual", "v6"])
def test_text_is_flannels_both_ways(env: SubnetEnv, text: str) -> None:
    assert render(env) == text
    assert parse(text) == env


def networks(family: int, longest: int) -> st.SearchStrategy[IPNetwork]:
    ipv4, ipv6 = st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)
    address: st.SearchStrategy[IPAddress] = ipv4 if family == 4 else ipv6
    return st.tuples(address, st.integers(1, longest)).map(lambda pair: ip_network(pair, strict=False))


FAMILY_PARTS = {family: st.tuples(networks(family, longest), networks(family, longest)) for family, longest in [(4, 30), (6, 126)]}
PARTS = st.one_of(
    FAMILY_PARTS[4].map(lambda v4: [v4]), FAMILY_PARTS[6].map(lambda v6: [v6]), st.tuples(FAMILY_PARTS[4], FAMILY_PARTS[6])
)


@given(PARTS, st.integers(68, 65535), st.booleans())
def test_parse_reads_back_what_render_wrote(parts: list[tuple[IPNetwork, IPNetwork]], mtu: int, ip_masq: bool) -> None:
    env = SubnetEnv(tuple(network for network, _ in parts), tuple(subnet for _, subnet in parts), mtu, ip_masq)
    assert parse(render(env)) == env


def test_parse_is_tolerant_of_what_people_do_to_the_file() -> None:
    text = (
        "# by hand\r\n\nOTHER\nexport FLANNEL_IPMASQ = 'true'\r\n  FLANNEL_MTU=\"9000\"\nFLANNEL_MTU=1450\n"
        "FLANNEL_SUBNET=10.5.72.9/24\nFLANNEL_NETWORK=10.5.0.0/16"
    )
    assert parse(text) == V4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10.5.72.1/24", "10.5.72.1", "line 2: FLANNEL_SUBNET: expected one IPv4 CIDR, got '10.5.72.1'"),
        (
            "10.5.72.1/24",
            "10.5.72.1/24,10.5.73.1/24",
            "line 2: FLANNEL_SUBNET: expected one IPv4 CIDR, got '10.5.72.1/24,10.5.73.1/24'",
        ),
        ("10.5.0.0/16", "fd00::/48", "line 1: FLANNEL_NETWORK: expected one IPv4 CIDR, got 'fd00::/48'"),
        ("10.5.0.0/16", "", "line 1: FLANNEL_NETWORK: expected one IPv4 CIDR, got ''"),
        ("1450", "14x", "line 3: FLANNEL_MTU: expected a number of bytes, got '14x'"),
        ("1450", "9" * 5000, "line 3: FLANNEL_MTU: expected a number of bytes"),
        ("FLANNEL_MTU=1450", "FLANNEL_MTU", "line 3: expected FLANNEL_MTU=value, got 'FLANNEL_MTU'"),
        ("FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", "", "missing FLANNEL_MTU, FLANNEL_IPMASQ"),
        ("FLANNEL_SUBNET=10.5.72.1/24", "", "missing FLANNEL_SUBNET"),
        (V4_TEXT, "", "missing FLANNEL_NETWORK, FLANNEL_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"),
    ],
)
def test_wrong_text_is_an_error_that_names_line_and_value(old: str, new: str, message: str) -> None:
    with pytest.raises(SubnetEnvError, match=f"^{message}"):
        parse(V4_TEXT.replace(old, new))


LINES = st.lists(st.text(max_size=20) | st.sampled_from(DUAL_TEXT.splitlines()) | st.text(max_size=9).map("FLANNEL_MTU={}".format))


@given(LINES)
def test_any_text_is_parsed_or_a_subnet_env_error(lines: list[str]) -> None:
    with suppress(SubnetEnvError):
        render(parse("\n".join(lines)))


def test_write_replaces_the_file_and_makes_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    umask = os.umask(0o077)
    try:
        write(path, DUAL)
        write(path, V4)
    finally:
        os.umask(umask)
    assert path.read_bytes() == V4_TEXT.encode()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    assert os.listdir(path.parent) == ["subnet.env"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.mkdir()
    with pytest.raises(SubnetEnvError, match=f"^cannot write {path}: Is a directory$"):
        write(path, V4)
    (tmp_path / "none").touch()
    with pytest.raises(SubnetEnvError, match=f"^cannot write {tmp_path}/none/x: File exists$"):
        write(tmp_path / "none" / "x", V4)
    assert sorted(os.listdir(tmp_path)) == ["none", "subnet.env"]


def test_read_tells_no_file_from_a_wrong_one(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    assert read(path) is None
    write(path, V4)
    assert read(path) == V4
    path.write_bytes(b"FLANNEL_MTU=\xff\n")
    with pytest.raises(SubnetEnvError, match=f"^{path}: missing FLANNEL_NETWORK"):
        read(path)
    with pytest.raises(SubnetEnvError, match=f"^cannot read {tmp_path}: Is a directory$"):
        read(tmp_path)
