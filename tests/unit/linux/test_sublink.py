"""flanneld.linux.sublink: bytes, with pyroute2 as the second opinion: not every kernel that tests run on has these devices."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from flanneld.linux import sublink
from flanneld.linux.message import NLM_F_CREATE, NLM_F_EXCL
from flanneld.linux.sublink import Kind, new_sublink

KINDS: list[tuple[Kind, dict[str, Any]]] = [
    *((sublink.macvlan(mode), {"IFLA_MACVLAN_MODE": mode}) for mode in ("bridge", "private", "vepa", "passthru")),
    *((sublink.ipvlan(mode), {"IFLA_IPVLAN_MODE": number}) for mode, number in (("l2", 0), ("l3", 1), ("l3s", 2))),
    (sublink.vlan(5), {"IFLA_VLAN_ID": 5}),
    (sublink.vlan(4094), {"IFLA_VLAN_ID": 4094}),
]


def read(*arguments: Any, **keywords: Any) -> Any:
    message = new_sublink(*arguments, **keywords)
    assert message.flags == NLM_F_CREATE | NLM_F_EXCL
    shown = ifinfmsg(message.encode(1))
    shown.decode()
    return shown


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=lambda each: each.name if isinstance(each, Kind) else "")
def test_pyroute2_reads_each_kind(kind: Kind, settings: dict[str, Any]) -> None:
    shown = read("tmp0", kind, 7, mtu=1300, mac="02:00:00:00:00:01", netns=9)
    found = {name: shown.get_attr(name) for name in ("IFLA_IFNAME", "IFLA_LINK", "IFLA_MTU", "IFLA_ADDRESS", "IFLA_NET_NS_FD")}
    assert list(found.values()) == ["tmp0", 7, 1300, "02:00:00:00:00:01", 9]
    info = shown.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == kind.name
    assert dict(info.get_attr("IFLA_INFO_DATA")["attrs"]) == settings


def test_what_is_not_wanted_is_not_said() -> None:
    shown = read("tmp0", sublink.vlan(5), 7)
    assert {name for name, _ in shown["attrs"]} == {"IFLA_IFNAME", "IFLA_LINK", "IFLA_LINKINFO"}


def test_macvlans_queue_is_said_when_it_is_wanted() -> None:
    assert sublink.macvlan("bridge", 2000).info == sublink.macvlan("bridge").info + bytes((8, 0, 7, 0, 0xD0, 7, 0, 0))
