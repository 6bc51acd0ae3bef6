"""The bandwidth plugin: token buckets on the host's end, one of them by way of an IFB device."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cni_chain import conf, host_end, host_local
from cni_errors import Fault, refused
from cni_traffic import service
from cni_world import Attachment, CniHost, Json, Sandbox, is_before, kernel_has

pytestmark = pytest.mark.skipif(not kernel_has("ifb"), reason="this kernel has no IFB devices")
RATE, BURST = 8_000_000, 800_000
"""Bits per second, bits: a megabyte per second after the first 100,000 bytes."""
BOTH: Json = {"ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": BURST}
INGRESS = {key: value for key, value in BOTH.items() if key.startswith("in")}
EGRESS = {key: value for key, value in BOTH.items() if key.startswith("e")}


@dataclass(frozen=True)
class Wired:
    """A pod on a bridge, to be limited."""

    host: CniHost
    attachment: Attachment
    result: Json

    @property
    def port(self) -> str:
        return str(host_end(self.result, "cni0")["name"])

    def network(self, **keys: Any) -> Json:
        return conf("bandwidth", prevResult=self.result, **keys)

    def limit(self, **keys: Any) -> Json:
        return self.host.add(self.network(**keys), self.attachment)

    def queues(self, device: str = "") -> dict[str, Json]:
        """Token buckets and the like, by kind."""
        rows = self.host.read(f"tc qdisc show dev {device or self.port}")
        return {row["kind"]: row.get("options", {}) for row in rows if row["kind"] != "noqueue"}


def wired(host: CniHost) -> Wired:
    attachment = host.attachment()
    return Wired(host, attachment, host.add(conf("bridge", isDefaultGateway=True, ipam=host_local("10.1.2.0/24")), attachment))


def ifbs(host: CniHost) -> list[str]:
    return [name for name, link in host.links().items() if link.get("linkinfo", {}).get("info_kind") == "ifb"]


def test_ingress_is_a_token_bucket_on_the_hosts_end(host: CniHost) -> None:
    pod = wired(host)
    assert pod.limit(**INGRESS) == pod.result
    bucket = pod.queues()["tbf"]
    assert bucket["rate"] == RATE // 8
    assert bucket["burst"] in (BURST // 8, f"{BURST // 8}b/1")
    assert ifbs(host) == []


def test_egress_is_a_token_bucket_on_an_ifb_device_which_the_result_names(host: CniHost) -> None:
    pod = wired(host)
    result = pod.limit(**EGRESS)
    (ifb,) = ifbs(host)
    assert result["interfaces"][:3] == pod.result["interfaces"]
    assert result["interfaces"][3:] == [{"name": ifb, "mac": host.links()[ifb]["address"]}]
    assert (pod.queues(ifb)["tbf"]["rate"], set(pod.queues())) == (RATE // 8, {"ingress"})
    assert (len(ifb), ifb[:3]) == (15, "bwp")
    assert host.links()[ifb]["mtu"] == host.links()[pod.port]["mtu"]


@pytest.mark.parametrize("limits", [{}, {"ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0}])
def test_without_limits_nothing_changes(host: CniHost, limits: Json) -> None:
    pod = wired(host)
    assert pod.limit(**limits) == pod.result
    assert (pod.queues(), ifbs(host)) == ({}, [])


def test_limits_of_the_configuration_leave_none_to_the_runtime(host: CniHost) -> None:
    pod = wired(host)
    pod.limit(**INGRESS, runtimeConfig={"bandwidth": {**EGRESS, "ingressRate": 2 * RATE, "ingressBurst": BURST}})
    assert pod.queues()["tbf"]["rate"] == RATE // 8
    assert ifbs(host) == []


def test_the_runtimes_limits_are_enough(host: CniHost, version: str) -> None:
    if is_before(version, "0.3.0"):
        pytest.skip(f"{version} has no chains")
    pod = wired(host)
    network = conf("bandwidth", version, runtimeConfig={"bandwidth": BOTH}, prevResult=as_of(version, pod.result))
    assert host.add(network, pod.attachment)["cniVersion"] == version
    assert set(pod.queues()) == {"tbf", "ingress"}


def as_of(version: str, result: Json) -> Json:
    families = [{**ip, "version": "4"} for ip in result["ips"]] if is_before(version, "1.0.0") else result["ips"]
    return {**result, "ips": families, "cniVersion": version}


def test_del_takes_the_ifb_device_and_may_be_repeated(host: CniHost) -> None:
    pod = wired(host)
    pod.limit(**BOTH)
    for _ in range(2):
        host.delete(pod.network(**BOTH), pod.attachment)
        assert ifbs(host) == []


def test_check_compares_rates(host: CniHost) -> None:
    pod = wired(host)
    result = pod.limit(**BOTH)
    host.check(pod.network(**BOTH), pod.attachment, result).succeeded()
    host.place.run(["tc", "qdisc", "replace", "dev", pod.port, "root", "tbf", "rate", "1mbit", "burst", "100kb", "latency", "25ms"])
    refused(host, host.check(pod.network(**BOTH), pod.attachment, result), Fault.OTHER)


def moved(source: Sandbox, target: Sandbox, address: str) -> float:
    """Seconds that 400,000 bytes take from one to the other."""
    size = 400_000
    with service(target, 5000) as sink, source.place.call(socket.create_connection, (address, 5000)) as near:
        far, _ = sink.listener.accept()
        start = time.monotonic()
        near.sendall(bytes(size))
        with far:
            received = 0
            while received < size:
                received += len(far.recv(1 << 16))
    return time.monotonic() - start


@pytest.mark.parametrize("limits", [INGRESS, EGRESS], ids=["ingress", "egress"])
def test_a_limit_holds_for_one_direction_of_one_pod(host: CniHost, limits: Json) -> None:
    pod, other = wired(host), wired(host)
    pod.limit(**limits)
    into, out = moved(host, host.of(pod.attachment), "10.1.2.2"), moved(host.of(pod.attachment), host, "10.1.2.1")
    slow, fast = (into, out) if limits is INGRESS else (out, into)
    assert slow > 0.25 > fast / 4
    assert moved(host, host.of(other.attachment), "10.1.2.3") < slow


INVALID: dict[str, tuple[Json, tuple[str, ...]]] = {
    "burst without rate": ({"ingressRate": 0, "ingressBurst": 123}, ("burst", "rate")),
    "rate without burst": ({"ingressRate": 123, "ingressBurst": 0}, ("rate", "burst")),
    "egress burst without rate": ({"egressBurst": 123}, ("burst", "rate")),
    "egress rate without burst": ({"egressRate": 123}, ("rate", "burst")),
    "burst of 4 GB": ({"ingressRate": RATE, "ingressBurst": 1 << 35}, ("burst", "4GB")),
    "egress burst of 4 GB": ({"egressRate": RATE, "egressBurst": 1 << 35}, ("burst", "4GB")),
    "less than nothing": ({"ingressRate": -1, "ingressBurst": -1}, ("ingressRate",)),
}


@pytest.mark.parametrize("what", INVALID)
def test_limits_that_make_no_sense_are_refused(host: CniHost, what: str) -> None:
    limits, gists = INVALID[what]
    pod = wired(host)
    refused(host, host.call("bandwidth", "ADD", pod.network(**limits), pod.attachment), Fault.CONFIGURATION, *gists)
    assert pod.queues() == {}


def test_it_has_to_come_after_another_plugin(host: CniHost) -> None:
    outcome = host.call("bandwidth", "ADD", conf("bandwidth", **INGRESS), host.attachment())
    refused(host, outcome, Fault.CONFIGURATION, "chained plugin")


@pytest.mark.parametrize(
    ("kept", "gist"),
    [
        (lambda one: False, "no interfaces"),
        (lambda one: "sandbox" in one, "veth peer"),
        (lambda one: not one["name"].startswith("veth"), "veth peer"),
    ],
    ids=["no interfaces", "none on the host", "no peer"],
)
def test_without_the_hosts_end_in_the_result_it_is_refused(host: CniHost, kept: Any, gist: str) -> None:
    pod = wired(host)
    pod = replace(pod, result={**pod.result, "interfaces": [one for one in pod.result["interfaces"] if kept(one)]})
    refused(host, host.call("bandwidth", "ADD", pod.network(**INGRESS), pod.attachment), Fault.OTHER, gist)


def test_of_several_host_ends_the_peer_of_the_containers_is_limited(host: CniHost) -> None:
    one, two = wired(host), wired(host)
    both = {**one.result, "interfaces": [*two.result["interfaces"][:2], *one.result["interfaces"]]}
    replace(one, result=both).limit(**INGRESS)
    assert (set(one.queues()), two.queues()) == ({"tbf"}, {})


def test_it_works_after_ptp(host: CniHost) -> None:
    attachment = host.attachment()
    result = host.add(conf("ptp", ipam=host_local("10.1.2.0/24")), attachment)
    limited = host.add(conf("bandwidth", **BOTH, prevResult=result), attachment)
    assert [one["name"] for one in limited["interfaces"][:2]] == [one["name"] for one in result["interfaces"]]
    assert len(ifbs(host)) == 1
