"""Packets whose checksums were left to hardware that they never met; must not know sockets."""

from __future__ import annotations

from flanneld.wire.segments import CHECKSUM_AT, TCP, TCP_HEADER, UDP_HEADER, gso_type_of, pseudo_sum, transport_of
from flanneld.wire.vnet import NEEDS_CSUM, VnetHeader


def unfinished(frame: memoryview, ip: int, mtu: int) -> VnetHeader | None:
    """How to hand on a packet whose checksum is still the pseudo header's sum; None for any other.

    Between namespaces and virtual machines of one host a kernel's tunnel may leave the checksum to be finished, and with it
    segmentation: what is longer than `mtu`, the IP packets' largest size, has not crossed a wire. `ip`: where its header starts.
    """
    if len(frame) < ip + 20:
        return None
    protocol, transport = transport_of(frame, ip)
    if protocol not in CHECKSUM_AT or transport + (TCP_HEADER if protocol == TCP else UDP_HEADER) > len(frame):
        return None
    field = transport + CHECKSUM_AT[protocol]
    stored = int.from_bytes(frame[field : field + 2], "little")
    if not stored or stored % 0xFFFF != pseudo_sum(frame, len(frame), ip, transport, protocol):
        return None
    if len(frame) - ip <= mtu:
        return VnetHeader(NEEDS_CSUM, csum_start=transport, csum_offset=CHECKSUM_AT[protocol])
    payload = transport + ((frame[transport + 12] >> 4) * 4 if protocol == TCP else UDP_HEADER)
    return VnetHeader(NEEDS_CSUM, gso_type_of(frame, ip, protocol), payload, mtu - (payload - ip), transport, CHECKSUM_AT[protocol])
