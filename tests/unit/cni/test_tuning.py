from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from cni import sysctls, tuning
from cni.config import Section
from cni.spec import CniError, Code, Command
from cni.sysctls import check_allowed, parse_sysctls
from cni_node import request
from flanneld.linux.link_settings import LinkSettings, encode_settings
from flanneld.linux.message import Message


def parsed(**keys: Any) -> tuning.Tuning:
    return tuning.parse(request(Command.ADD, {"type": "tuning", **keys}))


@pytest.mark.parametrize(
    ("name", "ifname", "path"),
    [
        ("net.core.somaxconn", "eth0", "core/somaxconn"),
        ("net/core/somaxconn", "eth0", "core/somaxconn"),
        ("net.ipv4.conf.IFNAME.arp_filter", "eth0", "ipv4/conf/eth0/arp_filter"),
        ("net.ipv4.conf.IFNAME.arp_filter", "eth0.7", "ipv4/conf/eth0.7/arp_filter"),
        ("net/ipv4/conf/eth0.7/arp_filter", "eth0", "ipv4/conf/eth0.7/arp_filter"),
        ("net.ipv4.conf.eth0/7.arp_filter", "eth0", "ipv4/conf/eth0.7/arp_filter"),
    ],
)
def test_sysctls_are_named_as_by_sysctl(name: str, ifname: str, path: str) -> None:
    (sysctl,) = parse_sysctls(Section({name: "1"}), ifname)
    assert (sysctl.path, sysctl.value) == (path, "1")


@pytest.mark.parametrize(
    "name", ["kernel.msgmax", "net", "net.", "network.x", "net/../kernel/msgmax", "net.//.kernel", "/net/x", "net..x"]
)
def test_only_sysctls_of_net_are_settable(name: str) -> None:
    with pytest.raises(CniError, match="invalid net sysctl key") as refused:
        parse_sysctls(Section({name: "1"}), "eth0")
    assert refused.value.code == Code.INVALID_CONFIG


def test_a_sysctl_is_a_text() -> None:
    with pytest.raises(CniError, match=r"sysctl.net.core.somaxconn: got 500"):
        parsed(sysctl={"net.core.somaxconn": 500})


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        (None, True),
        ("", False),
        ("^net.ipv4.conf.IFNAME.[a-z_]*$\n", True),
        ("\n  net.ipv4  \n", True),
        ("^net.ipv4.conf.eth0", False),
        ("^net.core", False),
    ],
)
def test_the_allow_list_decides(lines: str | None, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctls, "ALLOW_LIST", tmp_path / "allowlist.conf")
    if lines is not None:
        (tmp_path / "allowlist.conf").write_text(lines)
    wanted = parse_sysctls(Section({"net.ipv4.conf.IFNAME.arp_filter": "1"}), "eth0")
    if allowed:
        check_allowed(wanted)
    else:
        with pytest.raises(CniError, match="is not allowed"):
            check_allowed(wanted)


def test_a_broken_allow_list_allows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctls, "ALLOW_LIST", tmp_path / "allowlist.conf")
    (tmp_path / "allowlist.conf").write_text("(\n")
    with pytest.raises(CniError, match="regular expression"):
        check_allowed(parse_sysctls(Section({"net.core.somaxconn": "1"}), "eth0"))


def test_what_is_off_or_nought_is_not_touched() -> None:
    assert parsed(promisc=False, mtu=0, mac="").settings == LinkSettings()
    assert parsed(allmulti=False, txQLen=0).settings == LinkSettings(allmulti=False, tx_queue=0)


def test_the_mac_of_args_comes_before_the_runtimes_before_the_configured_one() -> None:
    configured = {"mac": "02:00:00:00:00:01"}
    by_args = {"args": {"cni": {"mac": "02:00:00:00:00:02"}}}
    assert parsed(**configured).settings.mac == "02:00:00:00:00:01"
    assert parsed(**configured, **by_args).settings.mac == "02:00:00:00:00:02"
    assert parsed(**configured, runtimeConfig={"mac": "02:00:00:00:00:03"}).settings.mac == "02:00:00:00:00:03"
    assert parsed(**configured, **by_args, runtimeConfig={"mac": "02:00:00:00:00:03"}).settings.mac == "02:00:00:00:00:02"


def test_args_may_have_any_key_and_come_first() -> None:
    config = parsed(mtu=1300, txQLen=5, args={"cni": {"mtu": 1400, "promisc": True, "sysctl": {"net.core.somaxconn": "1"}}})
    assert config.settings == LinkSettings(mtu=1400, promisc=True, tx_queue=5)
    assert [sysctl.path for sysctl in config.sysctls] == ["core/somaxconn"]


@pytest.mark.parametrize("keys", [{"mtu": -1}, {"mtu": 70000}, {"mac": "zz"}, {"promisc": "yes"}, {"sysctl": []}, {"txQLen": "5"}])
def test_wrong_values_are_refused_by_name(keys: dict[str, Any]) -> None:
    with pytest.raises(CniError, match=next(iter(keys))) as refused:
        parsed(**keys)
    assert refused.value.code == Code.INVALID_CONFIG


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(CniError, match="colour") as refused:
        parsed(colour="red")
    assert refused.value.code == Code.UNSUPPORTED_FIELD


def test_settings_are_what_pyroute2_reads() -> None:
    shown = ifinfmsg(Message(16, encode_settings(7, LinkSettings("02:00:00:00:00:01", 1300, True, False, 77))).encode(1))
    shown.decode()
    assert (shown["index"], shown["flags"], shown["change"]) == (7, 0x100, 0x300)
    found = {name: shown.get_attr(name) for name in ("IFLA_ADDRESS", "IFLA_MTU", "IFLA_TXQLEN")}
    assert found == {"IFLA_ADDRESS": "02:00:00:00:00:01", "IFLA_MTU": 1300, "IFLA_TXQLEN": 77}
