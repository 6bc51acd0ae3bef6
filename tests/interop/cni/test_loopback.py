"""The loopback plugin: sets lo up, and down."""

from __future__ import annotations

import pytest

from cni_chain import conf, interface, ips
from cni_world import CniHost, Sandbox, is_before

OTHERS_RESULT = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.1/24", "interface": 0}]}


def is_up(pod: Sandbox) -> bool:
    return "UP" in pod.links()["lo"]["flags"]


def test_add_sets_lo_up_and_del_down(host: CniHost, version: str) -> None:
    attachment = host.attachment()
    pod = host.of(attachment)
    assert not is_up(pod)
    host.call("loopback", "ADD", conf("loopback", version), attachment).result  # noqa: B018  # succeeds
    assert is_up(pod)
    host.delete(conf("loopback", version), attachment)
    assert not is_up(pod)


def test_the_result_is_lo_and_its_addresses(host: CniHost) -> None:
    attachment = host.attachment(ifname="lo")
    result = host.add(conf("loopback"), attachment)
    assert interface(result, "lo") == {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": attachment.netns}
    assert ips(result) == ["127.0.0.1/8", "::1/128"]
    assert [ip["interface"] for ip in result["ips"]] == [0, 0]


@pytest.mark.differs("reference", "prints a result of 0.3 whatever the version before is")
@pytest.mark.parametrize("old", ["0.1.0", "0.2.0"])
def test_an_old_result_has_ip4_and_ip6(host: CniHost, old: str) -> None:
    result = host.add(conf("loopback", old), host.attachment())
    assert result["ip4"]["ip"] == "127.0.0.1/8"
    assert "interfaces" not in result


def test_whatever_interface_is_asked_for_it_is_lo(host: CniHost) -> None:
    result = host.add(conf("loopback"), host.attachment(ifname="eth7"))
    assert [one["name"] for one in result["interfaces"]] == ["lo"]


def test_a_result_from_before_is_passed_on_unchanged(host: CniHost) -> None:
    attachment = host.attachment()
    result = host.add(conf("loopback", prevResult=OTHERS_RESULT), attachment)
    assert {key: result[key] for key in OTHERS_RESULT} == OTHERS_RESULT
    assert is_up(host.of(attachment))


def test_check_sees_lo_down(host: CniHost, version: str) -> None:
    if is_before(version, "0.4.0"):
        pytest.skip(f"{version} has no CHECK")
    attachment = host.attachment()
    result = host.add(conf("loopback", version), attachment)
    host.check(conf("loopback", version), attachment, result).succeeded()
    host.of(attachment).ip("link set lo down")
    assert "is down" in host.check(conf("loopback", version), attachment, result).text


@pytest.mark.parametrize("netns", ["", None, "/run/netns/none"])
def test_del_without_a_namespace_succeeds(host: CniHost, netns: str | None) -> None:
    host.delete(conf("loopback"), host.attachment(), CNI_NETNS=netns)


def test_ping_of_oneself_works_after_it(host: CniHost) -> None:
    attachment = host.attachment()
    host.add(conf("loopback"), attachment)
    host.of(attachment).place.run(["ping", "-c1", "-W2", "127.0.0.1"])
    host.of(attachment).place.run(["ping", "-c1", "-W2", "::1"])
