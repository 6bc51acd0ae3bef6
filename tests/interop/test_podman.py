"""CNI plugins under real podman with its CNI backend, on two hosts of a lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pod_checks
from cni_plugin_sets import PLUGIN_SETS, missing
from pod_checks import PORT, TwoHosts, page, reaches, two_hosts
from podman_host import NEEDS, PodmanHost, podman_host, uses_cni

pytestmark = pytest.mark.root
BLUE = "10.99.0.0/24"


@pytest.fixture(scope="module", params=PLUGIN_SETS, ids=str)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts[PodmanHost]]:
    if why := missing(request.param, NEEDS):
        pytest.skip(why)
    if not uses_cni():
        pytest.skip("this podman has no CNI backend: only podman 4 has")
    with two_hosts(request.param, tmp_path_factory.mktemp("image"), podman_host) as both:
        yield both


@pytest.fixture
def hosts(both: TwoHosts[PodmanHost]) -> Iterator[TwoHosts[PodmanHost]]:
    """Without containers, before and after."""
    try:
        yield both
    finally:
        both.clear()


def test_containers_on_two_hosts_reach_each_other(hosts: TwoHosts[PodmanHost]) -> None:
    pod_checks.pods_on_two_hosts_reach_each_other(hosts)


def test_two_containers_of_one_host_reach_each_other(hosts: TwoHosts[PodmanHost]) -> None:
    pod_checks.two_pods_of_one_host_reach_each_other(hosts)


def test_a_published_port_is_open_to_everybody(hosts: TwoHosts[PodmanHost]) -> None:
    pod_checks.a_host_port_is_open_to_everybody(hosts)
    assert hosts.here.ports("web") == {f"80/tcp -> 0.0.0.0:{PORT}"}


def test_a_published_port_goes_with_its_container(hosts: TwoHosts[PodmanHost]) -> None:
    pod_checks.a_host_port_goes_with_its_pod(hosts)


def test_a_container_that_is_removed_leaves_nothing(hosts: TwoHosts[PodmanHost]) -> None:
    pod_checks.a_pod_that_is_removed_leaves_nothing(hosts)


def test_a_container_that_is_started_again_is_in_the_network_again(hosts: TwoHosts[PodmanHost]) -> None:
    here, far = hosts.here, hosts.there.run_pod("far")
    here.run_pod("again", {PORT: 80})
    here.podman("stop", "again")
    here.podman("start", "again")
    assert page(f"http://{here.address('again')}/", far) == "again"


def test_a_network_of_podmans_own_making_carries_and_goes(hosts: TwoHosts[PodmanHost]) -> None:
    if lacking := hosts.here.host.call(hosts.plugins.lacks, "bridge", "firewall", "tuning"):
        pytest.skip(f"podman's own networks need {', '.join(lacking)} too")
    hosts.here.create_network("blue", BLUE)
    one, other = (hosts.here.run_pod(name, network="blue") for name in ("one", "other"))
    reaches(one, other)
