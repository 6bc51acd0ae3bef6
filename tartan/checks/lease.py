"""Leases: ours is there and the one that pods use, and no two hosts have one subnet; must not know stores or kernels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from flanneld.config import NetworkConfig
from flanneld.lease import IPAddress, Lease, LeaseAttrs, overlap
from flanneld.store import fits, holder, is_ours
from flanneld.subnet_env import SubnetEnv
from tartan.checks.finding import Finding, counted, error, ok, warning
from tartan.leases import left

SLACK_S = 300
"""A renewal that is so late is not coming: it is tried again every few seconds."""


@dataclass(frozen=True, slots=True)
class Host:
    """What this host knows of itself."""

    public_ips: tuple[IPAddress, ...]
    former: Lease | None
    """The claim that flanneld remembers."""
    env: SubnetEnv | None
    subnet_file: str

    @property
    def shown_by(self) -> str:
        return f"tartan leases; cat {self.subnet_file}"


def ours(leases: Collection[Lease], host: Host) -> list[Lease]:
    """The leases that are ours, first the one that subnet.env names."""
    found = [lease for lease in leases if is_ours(LeaseAttrs(host.public_ips), host.former, lease)]
    return sorted(found, key=lambda lease: host.env is None or lease.subnets != host.env.subnets)


def check_own(leases: Collection[Lease], host: Host, network: NetworkConfig) -> list[Finding]:
    """Our lease is there, fits the network config, and is what pods are told."""
    found = ours(leases, host)
    if not found:
        return [_missing(leases, host)]
    own = found[0]
    if not fits(network, own.subnets):
        networks = " ".join(str(pool.network) for pool in network.pools)
        why = f"{own} is not a subnet that the network config hands out ({networks})"
        return [error("lease", why, host.shown_by, "restart flanneld: it takes another subnet; then make this host's pods anew")]
    return [*_check_env(own, host), *(_superfluous(own, other, host) for other in found[1:])]


def _missing(leases: Collection[Lease], host: Host) -> Finding:
    ips = " ".join(map(str, host.public_ips))
    used = "+".join(map(str, host.env.subnets)) if host.env else ""
    takers = [lease for lease in leases if host.env and overlap(lease.subnets, host.env.subnets)]
    if takers:
        why = f"{used}, which pods here use, is leased by {' and '.join(map(holder, takers))}: two hosts have one subnet"
        return error("lease", why, host.shown_by, "restart flanneld here: it takes another subnet; then make this host's pods anew")
    why = f"no lease carries our public IP {ips}" + (f", and pods here use {used}" if used else "")
    remedy = "start flanneld, or see in its log why it has no lease; behind a NAT or with two uplinks compare --public-ip, --iface"
    return error("lease", why, host.shown_by, remedy)


def _check_env(own: Lease, host: Host) -> list[Finding]:
    if host.env is None:
        why = f"{host.subnet_file} is not there: no pod can start"
        return [error("lease", why, f"cat {host.subnet_file}", "start flanneld, or see in its log why it does not write the file")]
    if host.env.subnets != own.subnets:
        pods = "+".join(map(str, host.env.subnets))
        why = f"subnet.env says {pods}, our lease is {own}: pods have addresses that no other host sends to us"
        return [error("lease", why, host.shown_by, "restart flanneld, then make this host's pods anew")]
    return [ok("lease", f"{own} is ours, and what subnet.env says")]


def _superfluous(own: Lease, other: Lease, host: Host) -> Finding:
    why = f"we hold {other} besides {own}: packets for it come here, where no pod has it"
    return warning("lease", why, host.shown_by, "restart flanneld: it gives up what it does not use")


def check_time_left(seconds: int | None, margin_min: int) -> Finding:
    """`seconds` None: a reservation. A lease is renewed `margin_min` minutes before its end."""
    if seconds is None:
        return ok("lease", "is a reservation: it never expires")
    words = left(float(seconds), 0)
    if seconds < margin_min * 60 - SLACK_S:
        remedy = "start flanneld, or see in its log why it cannot renew; another host gets the subnet when the time is over"
        return error("lease", f"expires in {words} and is not renewed", "tartan leases", remedy)
    return ok("lease", f"expires in {words}")


def check_others(leases: Sequence[Lease], shown_by: str = "tartan leases") -> list[Finding]:
    """No two leases have an address in common; no host holds two."""
    found = []
    for a, b in _neighbours(leases):
        if overlap(a.subnets, b.subnets):
            why = f"{a} of {holder(a)} overlaps {b} of {holder(b)}"
            found.append(error("leases", why, shown_by, "stop flanneld on one of the two, delete its key, and start it again"))
    by_host: dict[str, list[Lease]] = {}
    for lease in leases:
        by_host.setdefault(holder(lease), []).append(lease)
    for host, held in by_host.items():
        if len(held) > 1:
            why = f"{host} holds {' and '.join(map(str, held))}"
            found.append(warning("leases", why, shown_by, "delete the key of the subnet that the host does not use"))
    return found or [ok("leases", f"{counted(len(leases), 'lease')}, no two overlap")]


def _neighbours(leases: Sequence[Lease]) -> list[tuple[Lease, Lease]]:
    """Pairs that may overlap: with few leases all, else those that are beside each other in the order of addresses."""
    if len(leases) <= 64:
        return list(combinations(leases, 2))
    ordered = sorted(leases, key=lambda lease: [(net.version, int(net.network_address)) for net in lease.subnets])
    return list(pairwise(ordered))
