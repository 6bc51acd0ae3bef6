"""The elements that plugins hold in our packet filter tables, in nft's words, and their bytes; sans-IO, must not know the kernel.

Each function is one thing that a plugin can ask for; the fields of a key and of a value have ` . ` between.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_network

from cni.ledger import HeldElement
from cni.packet_rules import PLACES
from cni.result import IPAddress, IPInterface
from flanneld.linux.nft_elements import Element
from flanneld.linux.nft_expressions import padded
from flanneld.linux.nft_tables import NftTable, NftType
from flanneld.linux.rtnetlink import mac_bytes

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


def masquerade(pod: IPInterface) -> tuple[HeldElement, ...]:
    """What the pod sends out of its own subnet carries the host's address, but for multicast (`ipMasq`)."""
    return HeldElement(f"masqueraded{pod.version}", str(pod.ip)), _near(pod)


def port_mapping(protocol: str, host_ip: IPAddress | None, host_port: int, pod: IPAddress, pod_port: int) -> HeldElement:
    """What comes to that port of the host, or of one of its addresses, goes to the pod."""
    target = f"{pod} . {pod_port}"
    if host_ip is None:
        return HeldElement(f"ports{pod.version}", f"{protocol} . {host_port}", target)
    return HeldElement(f"ip_ports{pod.version}", f"{host_ip} . {protocol} . {host_port}", target)


def hairpin(pod: IPInterface) -> tuple[HeldElement, ...]:
    """Who comes by way of a port mapping from the pod's subnet, or from the host's loopback, shows with the host's address."""
    return HeldElement(f"hairpin{pod.version}", str(pod.ip)), _near(pod)


def hairpin_all(pod: IPInterface) -> tuple[HeldElement, ...]:
    """The same for whoever comes by way of a port mapping (`masqAll`)."""
    return (HeldElement(f"hairpin_all{pod.version}", str(pod.ip)),)


def _near(pod: IPInterface) -> HeldElement:
    """Two addresses of one subnet."""
    return HeldElement(f"near{pod.version}", f"{pod.network} . {pod.network}")


def guard_mac(port: str, mac: str) -> tuple[HeldElement, ...]:
    """Frames from that port of a bridge with another source than the MAC are dropped (`macspoofchk`)."""
    return HeldElement("guarded_ports", port), HeldElement("port_macs", f"{port} . {mac.lower()}")


def pass_forwarding(pod: IPAddress) -> HeldElement:
    """The firewall lets the pod's connections pass, see `forwarding`."""
    return HeldElement(f"passed{pod.version}", str(pod))


def bridge_apart(bridge: str, *, within: bool) -> tuple[HeldElement, ...]:
    """Nothing is routed between such bridges, and with `within` unset nothing from the bridge to itself."""
    apart = HeldElement("bridges_apart", bridge)
    return (apart, HeldElement("bridges_within", f"{bridge} . {bridge}")) if within else (apart,)


def isolate_port(port: str) -> HeldElement:
    """A bridge carries no frame from one such port to another."""
    return HeldElement("isolated_ports", port)


def encode_held(held: HeldElement) -> tuple[NftTable, Element]:
    """The table it is in, and its bytes; raises LookupError, ValueError, OSError (a later version's words)."""
    table, place = PLACES[held.set]
    starts, ends = _encode_fields(place.key, held.key)
    values = _encode_fields(place.value, held.value)[0] if place.value else b""
    return table, Element(place.name, starts, values, ends if place.interval else b"")


def _encode_fields(types: Sequence[NftType], words: str) -> tuple[bytes, bytes]:
    """The first and the last key that the words mean."""
    ranges = [_ENCODE[kind](word) for kind, word in zip(types, words.split(" . "), strict=True)]
    if len(ranges) == 1:
        return ranges[0]
    sides = (
        b"".join(each[side].ljust(padded(kind.size), b"\0") for kind, each in zip(types, ranges, strict=True)) for side in (0, 1)
    )
    return next(sides), next(sides)


def _address(word: str) -> tuple[bytes, bytes]:
    if "/" not in word:  # inet_pton is six times as fast as ip_address
        return _exactly(socket.inet_pton(socket.AF_INET6 if ":" in word else socket.AF_INET, word))
    network = ip_network(word)
    return network.network_address.packed, network.broadcast_address.packed


def _exactly(value: bytes) -> tuple[bytes, bytes]:
    return value, value


_ENCODE: dict[NftType, Callable[[str], tuple[bytes, bytes]]] = {
    NftType.IPV4_ADDR: _address,
    NftType.IPV6_ADDR: _address,
    NftType.INET_PROTO: lambda word: _exactly(bytes([PROTOCOLS[word]])),
    NftType.INET_SERVICE: lambda word: _exactly(int(word).to_bytes(2, "big")),
    NftType.IFNAME: lambda word: _exactly(word.encode(errors="surrogateescape").ljust(NftType.IFNAME.size, b"\0")),
    NftType.ETHER_ADDR: lambda word: _exactly(mac_bytes(word)),
}
