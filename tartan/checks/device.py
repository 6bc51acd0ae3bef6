"""The uplink, and the devices that a backend makes on it, as they are and as they should be; pure."""

from __future__ import annotations

from collections.abc import Sequence

from flanneld.backend import Uplink
from flanneld.kernel import Link
from flanneld.lease import FAMILIES, Lease, LeaseAttrs
from flanneld.store import holder
from tartan.checks.finding import Finding, error, ok, warning


def check_uplink(uplink: Uplink, link: Link | None, *, running: bool, wanted_mtu: int) -> list[Finding]:
    """`running`: it is up and has a carrier. `wanted_mtu`: the network config's, 0 for none."""
    shown_by = f"ip -s link show {uplink.name}"
    if link is None or not link.up:
        return [error("uplink", f"{uplink} is down", shown_by, f"ip link set {uplink.name} up")]
    if not running:
        return [error("uplink", f"{uplink} has no carrier", shown_by, "look at the cable, the switch, or the hypervisor's port")]
    if wanted_mtu > uplink.mtu:
        why = f"the network config says MTU {wanted_mtu}, {uplink.name} carries {uplink.mtu} bytes"
        remedy = f"ip link set {uplink.name} mtu {wanted_mtu}, if the network carries it; else lower Backend.MTU"
        return [warning("uplink", why, shown_by, remedy)]
    return [ok("uplink", f"{uplink} is up, MTU {uplink.mtu}")]


def check_checksums(uplink: Uplink, trap: str, *, left_to_hardware: bool | None) -> list[Finding]:
    """`trap`: what is known to break checksums that are left to this hardware; `left_to_hardware`: what the network config says."""
    if not trap or left_to_hardware is False:
        return []
    shown_by = f"ethtool -k flannel.1 | grep tx-checksum; ethtool -i {uplink.name}"
    if left_to_hardware is None:
        return [ok("checksums", f"{trap}: flanneld finishes them itself")]
    why = f"{trap}, and TxChecksumOffload is true: packets between pods arrive damaged"
    return [error("checksums", why, shown_by, 'take "TxChecksumOffload" out of the network config, or set it to false')]


def check_devices(noted: Sequence[str], links: Sequence[Link], remedy: str) -> list[Finding]:
    """`noted`: what flanneld would do to its devices, as `device NAME: WORDS`."""
    found = []
    for line in noted:
        name, _, words = line.removeprefix("device ").partition(": ")
        shown_by = f"ip -d addr show {name}"
        if words == "make":
            found.append(error("device", f"{name} does not exist", shown_by, remedy))
        elif words == "bring up":
            found.append(error("device", f"{name} is down", shown_by, remedy))
        else:
            found.append(error("device", f"{name} is not as it should be: {words}", shown_by, remedy))
    ours = " ".join(f"{link.name} (MTU {link.mtu})" for link in links if link.name.startswith("flannel"))
    return found or ([ok("device", f"{ours} as the network config says")] if ours else [])


def check_published(own: Lease, attrs: LeaseAttrs, remedy: str) -> list[Finding]:
    """What our lease tells other hosts is what this host has."""
    if own.attrs == attrs:
        return [ok("published", f"our lease tells other hosts to send to {holder(own)}")]
    told, have = (_told(each) for each in (own.attrs, attrs))
    why = f"our lease tells other hosts {told}, this host has {have}: what they send is lost"
    return [error("published", why, "tartan leases; ip -d link", remedy)]


def _told(attrs: LeaseAttrs) -> str:
    data = " ".join(text for family in FAMILIES if (text := attrs.data(family)))
    ips = " ".join(map(str, attrs.public_ips))
    return " ".join(part for part in (ips, attrs.backend_type, data) if part)
