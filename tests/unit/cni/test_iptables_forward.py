"""The firewall plugin's configuration and elements, and its chain in iptables, as text."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

import pytest

from cni.firewall import elements_for, parse
from cni.iptables_forward import CHAIN, JUMP, chain_rules, repair
from cni.result import Interface, Ip, Result
from cni.spec import CniError, Code
from cni_requests import request

BRIDGED = Result(
    (Interface("cni0"), Interface("veth1"), Interface("eth0", sandbox="/pod")),
    (Ip(ip_interface("10.1.1.2/24"), None, 2), Ip(ip_interface("fd00::2/64"), None, 2)),
)
BEFORE = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]", "-A FORWARD -j DOCKER-USER", "COMMIT"]


def applied(saved: list[str], lines: list[str]) -> list[str]:
    """What iptables-restore --noflush makes of it, as far as our lines go."""
    after = list(saved)
    for line in lines:
        if line.startswith(":"):
            chain = line.split()[0][1:]
            after = [each for each in after if not each.startswith((f"-A {chain} ", f":{chain} "))] + [line]
        elif line.startswith("-D"):
            after.remove("-A" + line.removeprefix("-D"))
        elif line.startswith("-I FORWARD 1 "):
            first = next((n for n, each in enumerate(after) if each.startswith("-A FORWARD")), len(after))
            after.insert(first, line.replace("-I FORWARD 1", "-A FORWARD"))
        else:
            after.append(line)
    return after


def test_a_repair_puts_the_chain_first_and_is_not_needed_again() -> None:
    after = applied(BEFORE, repair(BEFORE, "CNI-ADMIN"))
    assert [line for line in after if line.startswith("-A FORWARD")] == [f"-A FORWARD {JUMP}", "-A FORWARD -j DOCKER-USER"]
    assert [line for line in after if line.startswith(f"-A {CHAIN} ")] == chain_rules("CNI-ADMIN")
    assert repair(after, "CNI-ADMIN") == []


def test_an_administrators_chain_that_is_there_is_not_emptied() -> None:
    saved = [*BEFORE, ":CNI-ADMIN - [0:0]", "-A CNI-ADMIN -j DROP"]
    assert "-A CNI-ADMIN -j DROP" in applied(saved, repair(saved, "CNI-ADMIN"))


def test_what_was_damaged_is_made_whole() -> None:
    whole = applied(BEFORE, repair(BEFORE, "CNI-ADMIN"))
    for lost in (f"-A FORWARD {JUMP}", *chain_rules("CNI-ADMIN")):
        damaged = [line for line in whole if line != lost]
        assert repair(applied(damaged, repair(damaged, "CNI-ADMIN")), "CNI-ADMIN") == []


def test_another_administrators_chain_takes_the_place_of_the_first() -> None:
    whole = applied(BEFORE, repair(BEFORE, "CNI-ADMIN"))
    after = applied(whole, repair(whole, "SITE"))
    assert [line for line in after if line.startswith(f"-A {CHAIN} ")] == chain_rules("SITE")
    assert len([line for line in after if line.endswith(f"-j {CHAIN}")]) == 1


def sets(result: Result = BRIDGED, **keys: Any) -> list[tuple[str, str]]:
    asked = replace(request("firewall", keys), prev_result=result)
    return [(each.set, each.key) for each in elements_for(parse(asked), result)]


PASSED = [("passed4", "10.1.1.2"), ("passed6", "fd00::2")]


def test_without_a_policy_the_pod_passes_and_that_is_all() -> None:
    assert sets() == sets(backend="") == sets(backend="iptables", ingressPolicy="open", iptablesAdminChainName="X") == PASSED


def test_the_policies_are_about_the_bridge_and_isolated_about_the_port_too() -> None:
    apart, within = ("bridges_apart", "cni0"), ("bridges_within", "cni0 . cni0")
    assert sets(ingressPolicy="same-bridge") == [*PASSED, apart, within]
    assert sets(ingressPolicy="isolated") == [*PASSED, apart, ("isolated_ports", "veth1")]


def test_a_policy_needs_a_bridge() -> None:
    with pytest.raises(CniError, match='chain "firewall" plugin with "bridge"'):
        sets(replace(BRIDGED, interfaces=BRIDGED.interfaces[2:]), ingressPolicy="same-bridge")


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"backend": "firewalld"}, Code.UNSUPPORTED_FIELD),
        ({"firewalldZone": "trusted"}, Code.UNSUPPORTED_FIELD),
        ({"backend": "wet-paper"}, Code.INVALID_CONFIG),
        ({"ingressPolicy": "closed"}, Code.INVALID_CONFIG),
        ({"iptablesAdminChainName": "two words"}, Code.INVALID_CONFIG),
        ({"iptablesAdminChainName": "x\nCOMMIT"}, Code.INVALID_CONFIG),
        ({"iptablesAdminChainName": "-F"}, Code.INVALID_CONFIG),
    ],
)
def test_what_we_cannot_do_is_refused(keys: dict[str, Any], code: Code) -> None:
    with pytest.raises(CniError) as error:
        sets(**keys)
    assert error.value.code == code
