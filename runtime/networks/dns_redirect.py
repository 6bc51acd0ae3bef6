"""The rules by which a container's port 53 of 127.0.0.11 leads to the sockets of its DNS server; must not know DNS.

They are in the container's own namespace, as in Docker: a container may use any port for itself, 53 too.
"""

from __future__ import annotations

import socket

from flanneld.linux.nft_elements import Element, NftSocket, encode_element
from flanneld.linux.nft_expressions import DADDR, DPORT, L4PROTO, dnat_by, of_family, padded
from flanneld.linux.nft_tables import Hook, NftChain, NftFamily, NftSet, NftTable, NftType, replace_table
from runtime.errors import EngineError
from runtime.networks.etc_files import DNS_ADDRESS

PORT = 53
DSTNAT = -100
AFTER_DELETION = 2
"""Place of what makes the table, behind what makes sure that there is none."""
PLACE = (NftType.IPV4_ADDR, NftType.INET_PROTO, NftType.INET_SERVICE)
REDIRECT = NftTable(
    NftFamily.INET,
    "tartan-dns",
    (NftSet("servers", PLACE, (NftType.IPV4_ADDR, NftType.INET_SERVICE)),),
    (NftChain("output", (of_family(4) + dnat_by("servers", 4, DADDR[4], L4PROTO, DPORT),), Hook.OUTPUT, "nat", DSTNAT),),
)


def redirect(udp_port: int, tcp_port: int) -> None:
    """Lead there from now on, in the namespace of the calling thread; raises FlanneldError, OSError."""
    address = socket.inet_aton(DNS_ADDRESS)
    elements = [
        encode_element(
            REDIRECT, Element("servers", _together(address, bytes([protocol]), _port(PORT)), _together(address, _port(port)))
        )
        for protocol, port in ((socket.IPPROTO_UDP, udp_port), (socket.IPPROTO_TCP, tcp_port))
    ]
    with NftSocket() as nft:
        # Only after an earlier engine is there something to replace: the kernel takes 10 ms over what is deleted.
        definition = replace_table(REDIRECT)[0 if nft.shape(REDIRECT) else AFTER_DELETION :]
        refused = [outcome for outcome in nft.commit([*definition, *elements]) if outcome]
    if refused:
        raise EngineError(f"port {PORT} of {DNS_ADDRESS} cannot be redirected by nftables: {refused[0].why}")


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _together(*fields: bytes) -> bytes:
    return b"".join(field.ljust(padded(len(field)), b"\0") for field in fields)
