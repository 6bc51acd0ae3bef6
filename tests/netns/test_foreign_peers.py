"""A peer that runs no flanneld: programmed by hand with iproute2, its lease put into etcd as Go flannel writes it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from scapy.layers.inet import ICMP, IP
from scapy.packet import Raw

from flanneld_world import NETWORK, PREFIX, World, eventually, flanneld_world, run, vxlan_lease, write_file
from lab.pods import SUBNET_FILE, LabHost, Pod
from traffic import address_of, meshed, ping, recomputed, transferred

FOREIGN_MAC = "0e:00:00:00:00:c8"
FOREIGN_IP, FOREIGN_NET = "10.0.0.12", "10.244.200.0"
FOREIGN_POD = ip_address("10.244.200.2")
VALUES = {
    "vxlan": vxlan_lease(FOREIGN_IP, FOREIGN_MAC),
    "host-gw": f'{{"PublicIP":"{FOREIGN_IP}","PublicIPv6":null,"BackendType":"host-gw"}}',
    "udp": f'{{"PublicIP":"{FOREIGN_IP}","PublicIPv6":null}}',
}
MTU = {"vxlan": 1450, "host-gw": 1500, "udp": 1472}


@dataclass(frozen=True)
class Pair:
    """h1 with our flanneld and a pod; h2 without, but with a lease."""

    world: World
    pod: Pod
    stranger: LabHost

    @property
    def subnet(self) -> str:
        """Ours."""
        return str(address_of(self.pod)).rpartition(".")[0] + ".0"


@contextmanager
def pair(backend: str, **more: object) -> Iterator[Pair]:
    """`more`: of the backend's settings, for our host."""
    with flanneld_world(2, {**NETWORK, "Backend": {"Type": backend, **more}}) as world:
        (pod,) = meshed(world, "h1")
        world.etcd.put(f"{PREFIX}/subnets/{FOREIGN_NET}-24", VALUES[backend])
        stranger = world.lab.host("h2")
        env = f"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.200.1/24\nFLANNEL_MTU={MTU[backend]}\nFLANNEL_IPMASQ=true\n"
        write_file(stranger, SUBNET_FILE, env)
        (one,) = world.daemons
        eventually(lambda: one.said("peers programmed")[-1]["peers"] == 1, "the foreign lease")
        yield Pair(world, pod, stranger)


def ip(host: LabHost, *commands: str) -> None:
    for command in commands:
        run(host, f"ip {command}")


def assert_they_interwork(peers: Pair) -> None:
    """Echoes and a megabyte, begun on either side."""
    theirs = peers.stranger.pod("p1")
    assert address_of(theirs) == FOREIGN_POD
    content = os.urandom(1 << 20)
    for near, far in ((peers.pod, theirs), (theirs, peers.pod)):
        assert ping(near, address_of(far))
        assert transferred(near, far, address_of(far), content) == content


def test_vxlan_with_a_hand_programmed_peer() -> None:
    with pair("vxlan") as peers:
        ours = json.loads(peers.world.etcd.keys()[f"{peers.subnet}-24"].value)
        mac, host = ours["BackendData"]["VtepMAC"], ours["PublicIP"]
        ip(
            peers.stranger,
            f"link add flannel.1 address {FOREIGN_MAC} type vxlan id 1 dev eth0 local {FOREIGN_IP} dstport 8472 nolearning",
            f"address add {FOREIGN_NET}/32 dev flannel.1",
            "link set flannel.1 up",
            f"neigh add {peers.subnet} lladdr {mac} dev flannel.1 nud permanent",
            f"route add {peers.subnet}/24 via {peers.subnet} dev flannel.1 onlink",
        )
        run(peers.stranger, f"bridge fdb add {mac} dst {host} dev flannel.1 self permanent")
        assert_they_interwork(peers)


def test_host_gw_with_a_hand_programmed_peer() -> None:
    with pair("host-gw") as peers:
        ip(peers.stranger, f"route add {peers.subnet}/24 via 10.0.0.11 dev eth0")
        assert_they_interwork(peers)


def test_udp_with_a_peer_that_is_one_socket() -> None:
    echo = IP(src=str(FOREIGN_POD), ttl=9) / ICMP(id=7, seq=9) / Raw(b"woven by hand")
    with pair("udp") as peers, peers.stranger.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(10)
        peer.bind((FOREIGN_IP, 8285))
        echo.dst = str(address_of(peers.pod))
        peer.sendto(bytes(echo), ("10.0.0.11", 8285))
        data, source = peer.recvfrom(2048)
        answer = IP(data)
        assert source == ("10.0.0.11", 8285)
        assert (answer.src, answer.dst, answer[ICMP].type, answer[ICMP].seq) == (echo.dst, echo.src, 0, 9)
        assert answer.ttl == 64 - 2, "one hop for the host that forwards, one for the tunnel"
        assert recomputed(answer) == data
        assert b"woven by hand" in data
