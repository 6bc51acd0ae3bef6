"""`cni.chain` with Debian's reference plugins: bridge, host-local and portmap in a namespace that stands for the host."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from cni.cache import Attachment, ResultCache
from cni.chain import Chain
from cni.conflist import read_conflist
from cni.invoke import Executables, PluginError
from cni.ledger import Key
from cni.result import decode_result
from cni_world import REFERENCE_DIRECTORY
from lab.place import Place
from scratch_netns import ScratchNetns, scratch_netns

PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (REFERENCE_DIRECTORY / "bridge").exists(), reason="no reference plugins: ./dev test fetches them"),
]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """A host's namespace, a pod's, and a network."""

    netns: ScratchNetns
    pod: ScratchNetns
    chain: Chain
    pool: Path

    @property
    def attachment(self) -> Attachment:
        """Without ports: portmap 1.1.1's CHECK looks for the IPv4 rules among those of IPv6 too."""
        return Attachment(f"c-{self.pod.name}", str(self.pod.path))

    @property
    def key(self) -> Key:
        return self.attachment.key("net")

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As that host's runtime."""
        return Place(self.netns.name, (self.netns.path,), dict(os.environ)).call(function, *args, **kwargs)

    def nat(self) -> str:
        """The host's rules."""
        ended = self.call(subprocess.run, ["iptables-save", "-t", "nat"], capture_output=True, check=True)
        return ended.stdout.decode()

    def reserved(self) -> list[str]:
        return sorted(path.name for path in (self.pool / "net").glob("10.*"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    pool = tmp_path / "pool"
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "dataDir": str(pool)}
    bridge = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "1.0.0", "name": "net", "plugins": [bridge, portmap]}
    (tmp_path / "10-net.conflist").write_text(json.dumps(network))
    conflist = read_conflist(tmp_path / "10-net.conflist")
    chain = Chain(conflist, Executables((str(REFERENCE_DIRECTORY),), timeout_s=60), ResultCache(tmp_path / "cache"))
    with scratch_netns() as netns, scratch_netns() as pod:
        netns.ip("link set lo up")
        yield Host(netns, pod, chain, pool)


def test_a_pod_comes_is_checked_and_goes(host: Host) -> None:
    result = host.call(host.chain.add, host.attachment)
    (eth0,) = host.pod.read("ip address show eth0")
    there = {f"{address['local']}/{address['prefixlen']}" for address in eth0["addr_info"] if address["scope"] == "global"}
    assert there == {str(ip.address) for ip in decode_result(result, "1.0.0").ips}
    host.call(host.chain.check, host.attachment)
    host.call(host.chain.delete, host.attachment)
    assert [link["ifname"] for link in host.pod.read("ip link show")] == ["lo"]
    assert host.reserved() == []
    assert host.chain.cache.read(host.key) is None
    host.call(host.chain.delete, replace(host.attachment, netns=""))


def test_ports_reach_portmap_at_add_and_at_del(host: Host) -> None:
    with_ports = replace(host.attachment, capabilities={"portMappings": PORTS})
    host.call(host.chain.add, with_ports)
    assert "--to-destination 10.77.0.2:80" in host.nat()
    host.call(host.chain.delete, with_ports)
    assert "10.77.0.2" not in host.nat()


def test_check_sees_that_the_address_is_gone(host: Host) -> None:
    host.call(host.chain.add, host.attachment)
    host.pod.ip("address flush dev eth0 scope global")
    with pytest.raises(PluginError, match=r"plugin bridge failed \(CHECK\)"):
        host.call(host.chain.check, host.attachment)


def test_an_add_that_fails_in_the_second_plugin_leaves_neither_link_nor_address(host: Host) -> None:
    broken = replace(host.attachment, capabilities={"portMappings": [{"hostPort": -1, "containerPort": 80, "protocol": "tcp"}]})
    with pytest.raises(PluginError, match=r"plugin portmap failed \(ADD\): .*-1"):
        host.call(host.chain.add, broken)
    assert [link["ifname"] for link in host.pod.read("ip link show")] == ["lo"]
    assert host.reserved() == []


def test_a_second_add_fails_and_the_pod_stays_as_it_is(host: Host) -> None:
    host.call(host.chain.add, host.attachment)
    with pytest.raises(PluginError):
        host.call(host.chain.add, host.attachment)
    host.call(host.chain.check, host.attachment)


def test_gc_detaches_a_pod_whose_namespace_is_gone(host: Host) -> None:
    with scratch_netns() as gone:
        host.call(host.chain.add, Attachment("gone", str(gone.path)))
    host.call(host.chain.add, host.attachment)
    assert len(host.reserved()) == 2
    assert host.call(host.chain.gc, {host.key}) == [Key("net", "gone", "eth0")]
    assert len(host.reserved()) == 1
    host.call(host.chain.check, host.attachment)


def test_the_plugins_are_there_and_speak_the_version(host: Host) -> None:
    assert host.chain.validate() == {"portMappings"}


def test_pods_are_attached_side_by_side(host: Host) -> None:
    with scratch_netns() as one, scratch_netns() as two:
        pods = [Attachment(pod.name, str(pod.path)) for pod in (one, two, host.pod)]
        threads = [threading.Thread(target=host.call, args=(host.chain.add, pod)) for pod in pods]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(host.reserved()) == 3
        for pod in pods:
            host.call(host.chain.delete, pod)
    assert host.reserved() == []
