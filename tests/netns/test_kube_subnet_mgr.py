"""flanneld with --kube-subnet-mgr: subnets from nodes' podCIDRs, beside an API server that can be away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flanneld_world import NETWORK, Flanneld, World, eventually, flanneld_world, own_subnet, run, write_file
from kube_api_stand_in import Cluster, api_server
from lab.pods import Pod
from traffic import address_of, await_peers, ping, steady_ping

CONFIG = Path("/run/net-conf.json")
P = "flannel.alpha.coreos.com/"


@dataclass
class Nodes:
    """Two hosts that are a cluster's nodes."""

    world: World
    cluster: Cluster
    daemons: list[Flanneld]
    pods: list[Pod]

    def configure(self, backend: str) -> None:
        """As the kubelet mounts a changed ConfigMap."""
        for one in self.daemons:
            write_file(one.host, CONFIG, json.dumps({**NETWORK, "Backend": {"Type": backend}}))


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    cluster = Cluster()
    with flanneld_world(2) as world, api_server(cluster, "10.0.0.1", place=world.lab.fabric) as url:
        daemons = []
        for place, host in enumerate(world.lab.hosts):
            cluster.put(host.name, (f"10.244.{place}.0/24",))
            write_file(host, CONFIG, json.dumps(NETWORK))
            flags = ("--kube-subnet-mgr", f"--kube-api-url={url}", f"--net-config-path={CONFIG}")
            daemons.append(world.start(host.name, *flags, environ={"NODE_NAME": host.name}))
        for one in daemons:
            await_peers(one.ready(), 1)
        yield Nodes(world, cluster, daemons, [host.pod("p1") for host in world.lab.hosts])


def test_pod_cidrs_are_the_subnets_and_pods_reach_each_other(nodes: Nodes) -> None:
    assert [own_subnet(one.host) for one in nodes.daemons] == ["10.244.0.0", "10.244.1.0"]
    one, two = nodes.pods
    assert ping(one, address_of(two))
    notes = nodes.cluster.notes("h1")
    assert (notes[f"{P}public-ip"], notes[f"{P}backend-type"], notes[f"{P}kube-subnet-manager"]) == ("10.0.0.11", "vxlan", "true")
    for node in nodes.cluster.nodes.values():
        eventually(lambda node=node: nodes.cluster.nodes[node["metadata"]["name"]]["status"]["conditions"], "the condition")  # type: ignore[misc]


def test_pods_go_on_without_the_api_server_and_a_change_is_followed_afterwards(nodes: Nodes) -> None:
    one, two = nodes.pods
    with steady_ping(one, address_of(two)) as there:
        nodes.cluster.fail(broken=True)
        for daemon in nodes.daemons:
            daemon.await_said("store is unreachable")
        nodes.cluster.fail(broken=False)
        for daemon in nodes.daemons:
            daemon.await_said("store is back")
        vtep = {f"{P}public-ip": "10.0.0.99", f"{P}backend-data": '{"VNI":1,"VtepMAC":"0e:00:00:00:00:99"}'}
        nodes.cluster.put("h9", ("10.244.9.0/24",), {**nodes.cluster.notes("h2"), **vtep})
        eventually(lambda: "10.244.9.0/24" in run(nodes.daemons[0].host, "ip route"), "the new node")
    assert there.lost == 0


def test_annotations_that_somebody_spoils_are_put_right(nodes: Nodes) -> None:
    before = dict(nodes.cluster.notes("h1"))
    nodes.cluster.put("h1", ("10.244.0.0/24",), {**before, f"{P}backend-data": '{"VNI":1,"VtepMAC":"0e:00:00:00:00:77"}'})
    eventually(lambda: nodes.cluster.notes("h1") == before, "our annotations")


def test_the_backend_is_exchanged_with_the_mounted_file(nodes: Nodes) -> None:
    nodes.configure("host-gw")
    for daemon in nodes.daemons:
        daemon.await_said("change applied")
    eventually(lambda: ping(nodes.pods[0], address_of(nodes.pods[1])), "pods that reach each other")
    assert nodes.cluster.notes("h1")[f"{P}backend-type"] == "host-gw"
