from __future__ import annotations

from typing import Any

import pytest

from cni import static
from cni.spec import CniError, Code, Command
from cni_node import request

CONFIGURED = {"addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}]}


def parsed(ipam: dict[str, Any] = CONFIGURED, args: str = "", **keys: Any) -> list[tuple[str, str]]:
    given = dict(pair.split("=") for pair in args.split(";")) if args else {}
    asked = request(Command.ADD, {"type": "bridge", "bridge": "br0", "ipam": {"type": "static", **ipam}, **keys}, args=given)
    return [(str(ip.address), str(ip.gateway or "")) for ip in static.parse(asked).ips]


def test_only_the_ipam_object_is_read() -> None:
    assert parsed() == [("10.1.2.3/24", "10.1.2.1")]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("IP=10.9.9.9/24", [("10.9.9.9/24", "")]),
        ("IP=10.9.9.9/24,10.9.9.10/24;GATEWAY=10.9.9.1", [("10.9.9.9/24", "10.9.9.1"), ("10.9.9.10/24", "10.9.9.1")]),
        ("IP=10.9.9.9/24,fd00::5/64;GATEWAY=fd00::1,10.9.9.1", [("10.9.9.9/24", "10.9.9.1"), ("fd00::5/64", "fd00::1")]),
        ("IP=10.9.9.9/24;GATEWAY=fd00::1", [("10.9.9.9/24", "")]),
        ("GATEWAY=10.1.2.1", []),
    ],
)
def test_cni_args_come_after_the_configured_addresses(args: str, expected: list[tuple[str, str]]) -> None:
    assert parsed(args=args) == [("10.1.2.3/24", "10.1.2.1"), *expected]


def test_the_runtime_comes_before_args_and_args_before_all_else() -> None:
    by_args = {"cni": {"ips": ["10.7.7.7/24"]}}
    asked = request(
        Command.ADD,
        {"type": "static", "ipam": CONFIGURED, "args": by_args, "runtimeConfig": {"ips": ["10.8.8.8/24"]}},
        args={"IP": "10.9.9.9/24"},
    )
    assert [str(ip.address) for ip in static.parse(asked).ips] == ["10.8.8.8/24"]
    asked = request(Command.ADD, {"type": "static", "ipam": CONFIGURED, "args": by_args}, args={"IP": "10.9.9.9/24"})
    assert [str(ip.address) for ip in static.parse(asked).ips] == ["10.7.7.7/24"]


@pytest.mark.parametrize(
    ("ipam", "code", "gist"),
    [
        ({"addresses": [{"address": "10.1.2.3"}]}, Code.INVALID_CONFIG, "CIDR notation.*'10.1.2.3'"),
        ({"addresses": [{"gateway": "10.1.2.1"}]}, Code.INVALID_CONFIG, "CIDR"),
        ({"addresses": [{"address": "10.1.2.3/24", "gateway": "x"}]}, Code.INVALID_CONFIG, r"addresses\[0\].gateway"),
        ({"routes": [{"dst": "junk"}]}, Code.INVALID_CONFIG, r"routes\[0\].dst"),
        ({"dns": {"nameservers": "1.1.1.1"}}, Code.INVALID_CONFIG, "nameservers"),
        ({"colour": "red"}, Code.UNSUPPORTED_FIELD, "ipam.colour"),
        ({"addresses": [{"address": "10.1.2.3/24", "colour": "red"}]}, Code.UNSUPPORTED_FIELD, r"ipam.addresses\[0\].colour"),
    ],
)
def test_what_is_wrong_is_named(ipam: dict[str, Any], code: Code, gist: str) -> None:
    with pytest.raises(CniError, match=gist) as refused:
        parsed(ipam)
    assert refused.value.code == code


@pytest.mark.parametrize("args", ["IP=10.1.2.3", "IP=junk", "IP=10.1.2.3/24;GATEWAY=junk"])
def test_nonsense_in_cni_args_is_named(args: str) -> None:
    with pytest.raises(CniError, match=r"10.1.2.3'|'junk'"):
        parsed(args=args)


def test_an_old_version_has_one_address_a_family() -> None:
    two = {"addresses": [{"address": "10.1.2.3/24", "version": "4"}, {"address": "10.1.3.3/24"}]}
    with pytest.raises(CniError, match="more than 1 address per family"):
        parsed(two, cniVersion="0.2.0")
    assert len(parsed(two, cniVersion="0.3.0")) == 2


def test_there_has_to_be_an_ipam_object() -> None:
    with pytest.raises(CniError, match="'ipam'"):
        static.parse(request(Command.ADD, {"type": "static"}))
