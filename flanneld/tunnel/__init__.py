"""Packets between a TUN or TAP and peers over UDP, in user space: the engine that the udp backend and vxlan in user space share."""
