"""Packets between a TUN or TAP and peers over UDP, in user space: the engine that the udp backend and vxlan in user space share."""

PYTHON, NATIVE, AUTO = "tun", "native", "auto"
"""What carries packets, as `DataPath` in the network config calls it: a loop in Python, the same in C, the best that there is."""
