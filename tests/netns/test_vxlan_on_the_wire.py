"""vxlan frames between two hosts of a lab, as scapy reads them off the wire, and frames that scapy writes; RFC 7348 §5."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from flanneld_world import World, eventually, flanneld_world, vxlan_entries
from lab.pods import Pod
from traffic import Tap, address_of, finish_checksums, meshed, ping, ping_sized, recomputed, tapped, transferred

NETWORK = {
    "Network": "10.244.0.0/16",
    "EnableIPv6": True,
    "IPv6Network": "fd00:10:244::/48",
    "EnableNFTables": True,
    "Backend": {"Type": "vxlan"},
}
HOSTS = {4: ("10.0.0.11", "10.0.0.12"), 6: ("fd00:10::11", "fd00:10::12")}
IP_LAYER = {4: IP, 6: IPv6}
DEVICES = {4: "flannel.1", 6: "flannel-v6.1"}
BACKEND_DATA = {4: "BackendData", 6: "BackendV6Data"}
FOREIGN_MAC = "0e:00:00:00:00:c8"
FOREIGN_KEY = "10.244.200.0-24&fd00:10:244:c8::-64"
FOREIGN_VALUE = (
    '{"PublicIP":"10.0.0.13","PublicIPv6":"fd00:10::13","BackendType":"vxlan",'
    f'"BackendData":{{"VNI":1,"VtepMAC":"{FOREIGN_MAC}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{FOREIGN_MAC}"}}}}'
)
FOREIGN_IP, FOREIGN_POD = {4: "10.0.0.13", 6: "fd00:10::13"}, {4: "10.244.200.2", 6: "fd00:10:244:c8::2"}
both_families = pytest.mark.parametrize("family", [4, 6])


@dataclass(frozen=True)
class Wire:
    """Two hosts with flanneld and a pod each, a third without; nobody leaves a checksum to hardware."""

    world: World
    pods: list[Pod]

    def vtep_mac(self, host: int, family: int) -> str:
        """What the host (0, 1) publishes."""
        values = (json.loads(key.value) for key in self.world.etcd.keys().values())
        (value,) = (value for value in values if value["PublicIP"] == HOSTS[4][host])
        return str(value[BACKEND_DATA[family]]["VtepMAC"])

    def exchange(self, family: int, near: Pod | None = None) -> None:
        """Echoes, and TCP with full segments in both directions, between a pod of h1 and h2's."""
        near, far = near or self.pods[0], self.pods[1]
        assert ping(near, address_of(far, family))
        content = os.urandom(50_000)
        assert transferred(near, far, address_of(far, family), content) == content
        assert transferred(far, near, address_of(near, family), content) == content


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with flanneld_world(3, NETWORK, ipv6=True) as world:
        pods = meshed(world, "h1", "h2")
        for place in (*world.lab.hosts[:2], *pods):
            finish_checksums(place)
        yield Wire(world, pods)


def carried(tap: Tap, family: int) -> list[Packet]:
    """The frames with pods' packets of that family in them."""
    return [frame for frame in tap.frames() if VXLAN in frame and IP_LAYER[family] in frame[VXLAN]]


def one_hop_on(packet: Packet) -> bytes:
    """The packet as a router passes it on."""
    header = packet.copy()
    header.setfieldval("ttl" if header.version == 4 else "hlim", (header.ttl if header.version == 4 else header.hlim) - 1)
    return recomputed(header)


@both_families
def test_every_field_is_as_flannel_sends_it(wire: Wire, family: int) -> None:
    with tapped(wire.world.lab.fabric, "h1") as tap:
        wire.exchange(family)
        frames = carried(tap, family)
    assert len(frames) > 50
    ours, theirs = HOSTS[family]
    for frame in frames:
        outer, vxlan, inner = frame[IP_LAYER[family]], frame[VXLAN], frame[VXLAN].payload
        assert (outer.src, outer.dst, frame[UDP].dport) == (ours, theirs, 8472)
        assert (bytes(vxlan)[0], bytes(vxlan)[1:4], vxlan.vni, bytes(vxlan)[7]) == (0x08, b"\0\0\0", 1, 0)
        assert (inner.src, inner.dst) == (wire.vtep_mac(0, family), wire.vtep_mac(1, family))


@both_families
def test_the_inner_packet_is_what_the_pod_sent_one_hop_on(wire: Wire, family: int) -> None:
    near = wire.world.lab.host("h1").pod(f"fresh{family}")  # nothing of an earlier connection is on its way still
    finish_checksums(near)
    source, destination = (str(address_of(pod, family)) for pod in (near, wire.pods[1]))
    expected: list[bytes] = []
    inner: list[bytes] = []
    with tapped(near, "eth0") as pod, tapped(wire.world.lab.fabric, "h1") as tap:
        wire.exchange(family, near)

        def same() -> bool:
            sent = [frame.payload for frame in pod.frames(outgoing=True) if IP_LAYER[family] in frame]
            expected.extend(one_hop_on(packet) for packet in sent if packet.dst == destination)
            packets = [frame[VXLAN].payload.payload for frame in carried(tap, family)]
            inner.extend(bytes(packet) for packet in packets if packet.src == source)
            return sorted(inner) == sorted(expected)

        eventually(same, "each packet that the pod sent, once")  # the end of this one may be
    assert len(inner) > 50


@both_families
def test_every_checksum_outer_and_inner_is_right(wire: Wire, family: int) -> None:
    with tapped(wire.world.lab.fabric, "h1") as one, tapped(wire.world.lab.fabric, "h2") as two:
        wire.exchange(family)
        frames = carried(one, family) + carried(two, family)
    assert all(frame[UDP].chksum for frame in frames), "no outer checksum: RFC 7348 allows it, flannel has one"
    for frame in frames:
        assert recomputed(frame) == bytes(frame)
        spoiled = Ether(bytes(frame)[:-1] + bytes([bytes(frame)[-1] ^ 1]))
        assert recomputed(spoiled) != bytes(spoiled), "the test itself must see a wrong one"


@both_families
def test_a_pod_packet_of_full_size_travels_in_one_piece_and_in_ipv6_fills_the_underlays_mtu(wire: Wire, family: int) -> None:
    with tapped(wire.world.lab.fabric, "h1") as tap:
        assert ping_sized(wire.pods[0], address_of(wire.pods[1], family), 1430)
        sizes = {len(frame.payload) for frame in carried(tap, family)}
    assert sizes == {{4: 1480, 6: 1500}[family]}, "both families share the pod's interface, and with it the smaller MTU"


@pytest.fixture
def foreign(wire: Wire) -> Iterator[str]:
    """A peer on h3 by its lease alone, as Go flannel writes it; returns nothing that runs."""
    key = f"/coreos.com/network/subnets/{FOREIGN_KEY}"
    wire.world.etcd.put(key, FOREIGN_VALUE)
    host = wire.world.lab.host("h1")
    eventually(lambda: all(FOREIGN_MAC in " ".join(vxlan_entries(host, device)) for device in DEVICES.values()), "the foreign peer")
    yield FOREIGN_MAC
    wire.world.etcd.delete(key)


@both_families
def test_a_frame_that_scapy_builds_reaches_the_pod_and_its_answer_comes_back(wire: Wire, foreign: str, family: int) -> None:
    pod = str(address_of(wire.pods[0], family))
    request = ICMP(id=7, seq=9) if family == 4 else ICMPv6EchoRequest(id=7, seq=9)
    inner = Ether(src=foreign, dst=wire.vtep_mac(0, family)) / IP_LAYER[family](src=FOREIGN_POD[family], dst=pod)
    frame = VXLAN(flags=0x08, vni=1) / inner / request / Raw(b"woven by hand")
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with wire.world.lab.host("h3").call(socket.socket, kind, socket.SOCK_DGRAM) as peer:
        peer.settimeout(10)
        peer.bind((FOREIGN_IP[family], 8472))
        peer.sendto(bytes(frame), (HOSTS[family][0], 8472))
        data, source = peer.recvfrom(2048)
    answer = VXLAN(data)
    assert source[0] == HOSTS[family][0]
    assert (bytes(answer)[0], answer.vni, answer[Ether].dst, answer[Ether].src) == (0x08, 1, foreign, wire.vtep_mac(0, family))
    assert (answer[IP_LAYER[family]].src, answer[IP_LAYER[family]].dst) == (pod, FOREIGN_POD[family])
    reply = answer[ICMP] if family == 4 else answer[ICMPv6EchoReply]
    assert (reply.type, reply.id, reply.seq) == (0 if family == 4 else 129, 7, 9)
    assert recomputed(answer) == data
    assert b"woven by hand" in data


def test_a_frame_of_another_vni_does_not_get_in(wire: Wire, foreign: str) -> None:
    pod = str(address_of(wire.pods[0]))
    inner = Ether(src=foreign, dst=wire.vtep_mac(0, 4)) / IP(src=FOREIGN_POD[4], dst=pod)
    with wire.world.lab.host("h3").call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(10)
        peer.bind((FOREIGN_IP[4], 8472))
        for vni, sequence in ((2, 1), (1, 2)):
            peer.sendto(bytes(VXLAN(flags=0x08, vni=vni) / inner / ICMP(id=1, seq=sequence)), (HOSTS[4][0], 8472))
        assert VXLAN(peer.recv(2048))[ICMP].seq == 2
