"""CNI plugins under our engine, which a kubelet drives: through CRI, on two hosts of a lab, with the pods that containerd runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

import pod_checks
from cni_plugin_sets import TARTAN, missing
from containerd_host import CONFLIST, CriError
from flanneld_world import eventually
from pod_checks import NO_PORTS, PORT, TwoHosts, two_hosts
from runtime_cri_host import NEEDS, TartanHost, tartan_host

pytestmark = pytest.mark.root
MANY = 8


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts[TartanHost]]:
    if why := missing(TARTAN, NEEDS):
        pytest.skip(why)
    with two_hosts(TARTAN, tmp_path_factory.mktemp("image"), tartan_host) as both:
        yield both


@pytest.fixture
def hosts(both: TwoHosts[TartanHost]) -> Iterator[TwoHosts[TartanHost]]:
    """Without pods, before and after."""
    try:
        yield both
    finally:
        both.clear()


def test_the_network_is_ready_while_there_is_a_conflist(hosts: TwoHosts[TartanHost]) -> None:
    runtime = hosts.here
    assert runtime.conditions() == {"RuntimeReady": True, "NetworkReady": True}
    away = runtime.host.call(CONFLIST.rename, CONFLIST.with_suffix(".away"))
    try:
        assert not runtime.conditions()["NetworkReady"]
    finally:
        runtime.host.call(away.rename, CONFLIST)
    assert runtime.conditions()["NetworkReady"]


def test_pods_on_two_hosts_reach_each_other(hosts: TwoHosts[TartanHost]) -> None:
    pod_checks.pods_on_two_hosts_reach_each_other(hosts)


def test_a_pod_that_is_removed_leaves_nothing(hosts: TwoHosts[TartanHost]) -> None:
    pod_checks.a_pod_that_is_removed_leaves_nothing(hosts)


def test_a_host_port_is_open_to_everybody(hosts: TwoHosts[TartanHost]) -> None:
    pod_checks.a_host_port_is_open_to_everybody(hosts)


def test_two_pods_of_one_host_reach_each_other(hosts: TwoHosts[TartanHost]) -> None:
    pod_checks.two_pods_of_one_host_reach_each_other(hosts)


def test_a_host_port_goes_with_its_pod(hosts: TwoHosts[TartanHost]) -> None:
    pod_checks.a_host_port_goes_with_its_pod(hosts)


def test_many_pods_at_once_have_addresses_of_their_own(hosts: TwoHosts[TartanHost]) -> None:
    runtime = hosts.here
    configs = [{"config": runtime.pod_config(f"pod{number}", NO_PORTS)} for number in range(MANY)]
    sandboxes = [str(made["pod_sandbox_id"]) for made in runtime.cri.at_once("RunPodSandbox", configs)]
    assert len({runtime.pod_address(sandbox) for sandbox in sandboxes}) == MANY
    assert sorted(runtime.sandboxes()) == sorted(sandboxes)


def test_a_pod_that_cannot_have_its_port_leaves_nothing(hosts: TwoHosts[TartanHost]) -> None:
    runtime = hosts.here
    first = runtime.run_pod("first", {PORT: 80})
    with pytest.raises(CriError, match="port is already allocated"):
        runtime.run_pod("second", {PORT: 80})
    assert runtime.sandboxes() == [first.sandbox]
    first.remove()
    hosts.check_nothing_left()


def test_a_pod_whose_own_process_is_killed_is_not_ready(hosts: TwoHosts[TartanHost]) -> None:
    runtime, pod = hosts.here, hosts.here.pod("killed")
    info = runtime.cri("PodSandboxStatus", pod_sandbox_id=pod.sandbox, verbose=True)["info"]["info"]
    os.kill(json.loads(info)["pid"], signal.SIGKILL)
    eventually(lambda: runtime.pod_status(pod.sandbox)["state"] == "SANDBOX_NOTREADY", "its end is seen")
    assert runtime.pod_status(pod.sandbox)["network"]["ip"] == ""
    with pytest.raises(CriError, match="is not running"):
        pod.create("sleep", "1")
    runtime.remove_pod_sandbox(pod.sandbox)
    hosts.check_nothing_left()


def test_a_container_that_is_replaced_finds_its_pods_network_as_it_was(hosts: TwoHosts[TartanHost]) -> None:
    pod = hosts.here.pod("stays")
    look = ("ip", "address", "show", "dev", "eth0")
    first = pod.start("sleep", "1000000")
    links = hosts.here.exec_sync(first, look)
    hosts.here.remove_container(first)
    assert hosts.here.exec_sync(pod.start("sleep", "1000000"), look) == links
