"""CNI plugins under real containerd, as a kubelet drives it: through CRI, on two hosts of a lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pod_checks
from cni_plugin_sets import PLUGIN_SETS, missing
from containerd_host import CONFLIST, NEEDS, ContainerdHost, containerd_host
from flanneld_world import eventually
from pod_checks import NO_PORTS, TwoHosts, two_hosts

pytestmark = pytest.mark.root
MANY = 8


@pytest.fixture(scope="module", params=PLUGIN_SETS, ids=str)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts[ContainerdHost]]:
    if why := missing(request.param, NEEDS):
        pytest.skip(why)
    with two_hosts(request.param, tmp_path_factory.mktemp("image"), containerd_host) as both:
        yield both


@pytest.fixture
def hosts(both: TwoHosts[ContainerdHost]) -> Iterator[TwoHosts[ContainerdHost]]:
    """Without pods, before and after."""
    try:
        yield both
    finally:
        both.clear()


def test_the_network_is_ready_while_there_is_a_conflist(hosts: TwoHosts[ContainerdHost]) -> None:
    runtime = hosts.here
    assert runtime.conditions() == {"RuntimeReady": True, "NetworkReady": True}
    away = runtime.host.call(CONFLIST.rename, CONFLIST.with_suffix(".away"))
    try:
        eventually(lambda: not runtime.conditions()["NetworkReady"], "containerd misses the conflist")
    finally:
        runtime.host.call(away.rename, CONFLIST)
    eventually(lambda: runtime.conditions()["NetworkReady"], "containerd finds the conflist")


def test_pods_on_two_hosts_reach_each_other(hosts: TwoHosts[ContainerdHost]) -> None:
    pod_checks.pods_on_two_hosts_reach_each_other(hosts)


def test_two_pods_of_one_host_reach_each_other(hosts: TwoHosts[ContainerdHost]) -> None:
    pod_checks.two_pods_of_one_host_reach_each_other(hosts)


def test_a_host_port_is_open_to_everybody(hosts: TwoHosts[ContainerdHost]) -> None:
    pod_checks.a_host_port_is_open_to_everybody(hosts)


def test_a_host_port_goes_with_its_pod(hosts: TwoHosts[ContainerdHost]) -> None:
    pod_checks.a_host_port_goes_with_its_pod(hosts)


def test_a_pod_that_is_removed_leaves_nothing(hosts: TwoHosts[ContainerdHost]) -> None:
    pod_checks.a_pod_that_is_removed_leaves_nothing(hosts)


def test_many_pods_at_once_have_addresses_of_their_own(hosts: TwoHosts[ContainerdHost]) -> None:
    runtime = hosts.here
    configs = [{"config": runtime.pod_config(f"pod{number}", NO_PORTS)} for number in range(MANY)]
    sandboxes = [str(made["pod_sandbox_id"]) for made in runtime.cri.at_once("RunPodSandbox", configs)]
    assert len({runtime.pod_address(sandbox) for sandbox in sandboxes}) == MANY
    assert sorted(runtime.sandboxes()) == sorted(sandboxes)


def test_a_pod_may_be_stopped_again_when_its_namespace_is_gone(hosts: TwoHosts[ContainerdHost]) -> None:
    """containerd then calls DEL with an empty CNI_NETNS and without prevResult, and a third time when it removes the pod."""
    pod = hosts.here.run_pod("twice")
    for _ in range(2):
        hosts.here.stop_pod_sandbox(pod.sandbox)
    assert hosts.here.pod_status(pod.sandbox)["state"] == "SANDBOX_NOTREADY"
    hosts.here.remove_pod_sandbox(pod.sandbox)
    assert hosts.here.sandboxes() == []


def test_a_container_that_is_replaced_finds_its_pods_network_as_it_was(hosts: TwoHosts[ContainerdHost]) -> None:
    runtime, pod = hosts.here, hosts.here.run_pod("stays")
    links = pod.exec("ip", "address", "show", "dev", "eth0")
    runtime.stop_container(pod.container)
    runtime.remove_container(pod.container)
    again = runtime.create_container(pod.sandbox, runtime.pod_config("stays", NO_PORTS), ("sleep", "1000000"))
    runtime.start_container(again)
    assert runtime.exec_sync(again, ("ip", "address", "show", "dev", "eth0")) == links
