"""The Kubernetes store against an API server: flannel's annotations, watches that survive, access by every way there is."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from etcd_server import Certificates, make_certificates
from flanneld.config import parse_network
from flanneld.flags import Options
from flanneld.lease import LeaseAttrs
from flanneld.store import LeaseLost, NetworkNotConfigured, Snapshot, StoreError, StoreUnavailable
from flanneld.stores.kube import KubeLeaseStore, open_kube_store
from flanneld.stores.nodes import annotation_prefix
from kube_api_stand_in import Cluster, api_server

A_WHILE_S = 20
CONFIG = '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'
NETWORK = parse_network(CONFIG)
DUAL = parse_network('{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48"}')
DATA = '{"VNI":1,"VtepMAC":"fa:4f:bb:a6:ee:c4"}'
ATTRS = LeaseAttrs((ip_address("192.0.2.1"),), "vxlan", ((4, DATA),))
P = "flannel.alpha.coreos.com/"
PUBLISHED = {
    f"{P}kube-subnet-manager": "true",
    f"{P}backend-type": "vxlan",
    f"{P}backend-data": DATA,
    f"{P}public-ip": "192.0.2.1",
}


class World:
    """A cluster with our node and another host's, and the store on it."""

    def __init__(self, cluster: Cluster, url: str, directory: Path) -> None:
        self.cluster = cluster
        self.config = directory / "net-conf.json"
        self.config.write_text(CONFIG)
        self.options = Options(kube_subnet_mgr=True, kube_api_url=url, net_config_path=str(self.config))
        self.store = open_kube_store(self.options, {"NODE_NAME": "n1"})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    cluster = Cluster()
    cluster.put("n1", ("10.244.0.0/24",))
    cluster.put("n2", ("10.244.1.0/24",), {**PUBLISHED, f"{P}public-ip": "192.0.2.2"})
    with api_server(cluster) as url:
        made = World(cluster, url, tmp_path)
        yield made
        await made.store.close()


@asynccontextmanager
async def watching(store: KubeLeaseStore) -> AsyncIterator[Callable[[Callable[[Snapshot], bool]], Awaitable[Snapshot]]]:
    """Waits for a snapshot that is as it should be."""
    async with aclosing(store.watch()) as watch:

        async def until(right: Callable[[Snapshot], bool]) -> Snapshot:
            async with asyncio.timeout(A_WHILE_S):
                while not right(snapshot := await anext(watch)):
                    pass
            return snapshot

        yield until


async def test_our_annotations_are_flannels_to_the_letter_and_written_once(world: World) -> None:
    lease = await world.store.acquire(NETWORK, ATTRS)
    assert (lease.subnets, lease.attrs, lease.expires_at) == ((ip_network("10.244.0.0/24"),), ATTRS, None)
    assert world.cluster.notes("n1") == PUBLISHED
    assert world.cluster.patches == [("/api/v1/nodes/n1/status", {"metadata": {"annotations": PUBLISHED}})]
    await world.store.acquire(NETWORK, ATTRS)
    assert len(world.cluster.patches) == 1


async def test_a_backend_without_data_publishes_null_as_flannel_does(world: World) -> None:
    await world.store.acquire(NETWORK, LeaseAttrs(ATTRS.public_ips, "host-gw"))
    assert world.cluster.notes("n1")[f"{P}backend-data"] == "null"
    assert (await world.store.leases())[ip_network("10.244.0.0/24"),].attrs == LeaseAttrs(ATTRS.public_ips, "host-gw")


async def test_both_families_have_annotations_of_their_own(world: World) -> None:
    world.cluster.put("n1", ("fd00:10:244::/64", "10.244.0.0/24"))
    attrs = LeaseAttrs((ip_address("192.0.2.1"), ip_address("2001:db8::1")), "vxlan", ((4, DATA), (6, DATA)))
    lease = await world.store.acquire(DUAL, attrs)
    assert [str(subnet) for subnet in lease.subnets] == ["10.244.0.0/24", "fd00:10:244::/64"]
    notes = world.cluster.notes("n1")
    assert (notes[f"{P}public-ipv6"], notes[f"{P}backend-v6-data"]) == ("2001:db8::1", DATA)
    assert (await world.store.leases())[lease.subnets].attrs == attrs


async def test_a_node_without_a_pod_cidr_is_waited_for(world: World) -> None:
    world.cluster.put("n1")
    with pytest.raises(StoreUnavailable, match=r"node 'n1' pod cidr not assigned for IPv4"):
        await world.store.acquire(NETWORK, ATTRS)


async def test_another_public_ip_that_the_user_wrote_is_published_instead(world: World) -> None:
    world.cluster.put("n1", ("10.244.0.0/24",), {f"{P}public-ip-overwrite": "203.0.113.7"})
    lease = await world.store.acquire(NETWORK, ATTRS)
    assert str(lease.attrs.public_ips[0]) == world.cluster.notes("n1")[f"{P}public-ip"] == "203.0.113.7"
    world.cluster.put("n1", ("10.244.0.0/24",), {f"{P}public-ip-overwrite": "nowhere"})
    with pytest.raises(StoreError, match="annotation public-ip-overwrite: 'nowhere'"):
        await world.store.acquire(NETWORK, ATTRS)


async def test_hold_puts_back_what_somebody_changed_and_is_lost_with_the_pod_cidr(world: World) -> None:
    lease = await world.store.acquire(NETWORK, ATTRS)
    world.cluster.put("n1", ("10.244.0.0/24",), {**PUBLISHED, f"{P}backend-data": "{}"})
    assert await world.store.hold(lease, ATTRS) == lease
    assert world.cluster.notes("n1") == PUBLISHED
    assert await world.store.renew(lease) == lease
    world.cluster.put("n1", ("10.244.9.0/24",), PUBLISHED)
    with pytest.raises(LeaseLost, match=r"node 'n1' has 10\.244\.9\.0/24"):
        await world.store.renew(lease)
    world.cluster.delete("n1")
    with pytest.raises(LeaseLost, match="n1 not found"):
        await world.store.hold(lease, ATTRS)


async def test_watch_follows_nodes_and_only_those_that_run_flannel(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = ((ip_network(f"10.244.{n}.0/24"),) for n in range(3))
    async with watching(world.store) as until:
        await until(lambda now: set(now.leases) == {two} and now.config == CONFIG)
        await world.store.acquire(NETWORK, ATTRS)
        await until(lambda now: set(now.leases) == {one, two})
        world.cluster.put("n3", ("10.244.2.0/24",))
        world.cluster.put("n3", ("10.244.2.0/24",), {**PUBLISHED, f"{P}public-ip": "nowhere"})
        world.cluster.put("n3", ("10.244.2.0/24",), {**PUBLISHED, f"{P}public-ip": "192.0.2.3"})
        await until(lambda now: set(now.leases) == {one, two, three})
        world.cluster.delete("n2")
        await until(lambda now: set(now.leases) == {one, three})
    assert caplog.messages.count("lease ignored") <= 1


async def test_watch_survives_compaction_and_an_api_server_that_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    two, four = (ip_network("10.244.1.0/24"),), (ip_network("10.244.4.0/24"),)
    async with watching(world.store) as until:
        await until(lambda now: set(now.leases) == {two})
        world.cluster.compact()
        world.cluster.put("n4", ("10.244.4.0/24",), PUBLISHED)
        await until(lambda now: set(now.leases) == {two, four})
        world.cluster.fail(broken=True)
        world.cluster.delete("n2")
        await asyncio.sleep(1)
        world.cluster.fail(broken=False)
        await until(lambda now: set(now.leases) == {four})
    said = [message for message in caplog.messages if message.startswith("store is")]
    assert said == ["store is unreachable", "store is back"]


async def test_the_config_is_read_again_when_the_mounted_file_changes(world: World) -> None:
    assert await world.store.network() == NETWORK
    async with watching(world.store) as until:
        await until(lambda now: now.config == CONFIG)
        (world.config.parent / "new").write_text('{"Network": "10.5.0.0/16"}')
        (world.config.parent / "new").rename(world.config)
        await until(lambda now: now.config == '{"Network": "10.5.0.0/16"}')
    world.config.unlink()
    with pytest.raises(NetworkNotConfigured, match=r"net-conf\.json: no such file"):
        await world.store.network()


async def test_the_node_is_told_that_its_network_is_there_once_peers_are_followed(world: World) -> None:
    await world.store.acquire(NETWORK, ATTRS)
    assert world.cluster.nodes["n1"]["status"]["conditions"] == []
    async with watching(world.store) as until:
        await until(lambda now: len(now.leases) == 2)
        world.cluster.put("n3", ("10.244.2.0/24",), PUBLISHED)
        await until(lambda now: len(now.leases) == 3)
    (condition,) = world.cluster.nodes["n1"]["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("NetworkUnavailable", "False", "FlannelIsUp")
    assert condition["message"] == "Flannel is running on this node"


async def test_the_node_is_found_by_the_pod_that_we_run_in(world: World) -> None:
    world.cluster.pods["kube-flannel/ds-x"] = "n1"
    store = open_kube_store(world.options, {"POD_NAME": "ds-x", "POD_NAMESPACE": "kube-flannel"})
    assert (await store.acquire(NETWORK, ATTRS)).subnets == (ip_network("10.244.0.0/24"),)
    await store.close()
    with pytest.raises(StoreError, match="needs NODE_NAME, or POD_NAME and POD_NAMESPACE"):
        await open_kube_store(world.options, {}).acquire(NETWORK, ATTRS)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("inline", [True, False], ids=["data", "files"])
async def test_a_kubeconfig_with_client_certificates(tmp_path: Path, certificates: Certificates, inline: bool) -> None:
    def given(key: str, path: Path) -> dict[str, str]:
        return {f"{key}-data": base64.b64encode(path.read_bytes()).decode()} if inline else {key: str(path)}

    cluster = Cluster()
    cluster.put("n1", ("10.244.0.0/24",))
    with api_server(cluster, certificates=certificates) as url:
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": url, **given("certificate-authority", certificates.ca)}}],
            "users": [
                {
                    "name": "u",
                    "user": given("client-certificate", certificates.client) | given("client-key", certificates.client_key),
                }
            ],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        store = open_kube_store(Options(kubeconfig_file=str(tmp_path / "kubeconfig")), {"NODE_NAME": "n1"})
        assert (await store.acquire(NETWORK, ATTRS)).attrs == ATTRS
        await store.close()


async def test_a_service_accounts_token_is_read_again_when_the_kubelet_renews_it(world: World, tmp_path: Path) -> None:
    world.cluster.token = "first"  # noqa: S105
    token = tmp_path / "token"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": world.options.kube_api_url}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    token.write_text("first\n")
    store = open_kube_store(Options(kubeconfig_file=str(tmp_path / "kubeconfig")), {"NODE_NAME": "n1"})
    await store.acquire(NETWORK, ATTRS)
    world.cluster.token = "second"  # noqa: S105
    with pytest.raises(StoreError, match="401 Unauthorized"):
        await store.acquire(NETWORK, ATTRS)
    token.write_text("second\n")
    await store.acquire(NETWORK, ATTRS)
    await store.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(), "not in a pod: KUBERNETES_SERVICE_HOST is not set"),
        (Options(kubeconfig_file="/nowhere"), "kubeconfig-file /nowhere: no such file or directory"),
        (Options(kube_annotation_prefix="nonsense"), "kube-annotation-prefix 'nonsense': expected a domain name"),
    ],
)
def test_what_is_missing_is_named(options: Options, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        open_kube_store(options, {})


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("flannel.alpha.coreos.com", P),
        ("example.org/", "example.org/"),
        ("example.org/net", "example.org/net-"),
        ("a.b/c-", "a.b/c-"),
    ],
)
def test_prefixes_are_completed_as_flannel_completes_them(given: str, used: str) -> None:
    assert annotation_prefix(given) == used


async def test_an_api_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    store = open_kube_store(Options(kube_api_url="http://127.0.0.1:9"), {"NODE_NAME": "n1"})
    with pytest.raises(StoreUnavailable, match=r"http://127\.0\.0\.1:9: "):
        await store.acquire(NETWORK, ATTRS)
    await store.close()
