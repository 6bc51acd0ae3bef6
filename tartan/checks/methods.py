"""What there should be in the kernel for every peer, by the backends' own plans; changes nothing.

The backends are attached to a kernel that takes notes. Those that open device and sockets are
looked at from outside (`seen`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

from flanneld import FlanneldError
from flanneld.backend import Identity, Network, Plan, Refusal, Uplink, load_backend
from flanneld.config import NetworkConfig
from flanneld.dry_run import NotingKernel
from flanneld.kernel import Entry, Owner
from flanneld.lease import Lease, LeaseAttrs
from flanneld.linux.netlink import Netlink
from flanneld.mesh import same_method
from tartan.checks.seen import SeenTap, SeenUdp


@dataclass(slots=True)
class Planned:
    """What all methods together want."""

    attrs: LeaseAttrs
    """What our lease is to publish."""
    mtu: int
    plans: dict[Lease, Plan] = field(default_factory=dict)
    shared: list[Entry] = field(default_factory=list)
    """What all peers need."""
    owner: Owner = field(default_factory=Owner)
    noted: list[str] = field(default_factory=list)
    """What would have to be done to devices, in words."""
    method: dict[Lease, str] = field(default_factory=dict)
    """The backend type by which each peer is reached."""


@dataclass(frozen=True, slots=True)
class Here:
    """This host."""

    uplink: Uplink
    identity: Identity


async def plan_all(
    nl: Netlink, configs: Sequence[NetworkConfig], here: Here, own: Lease | None, peers: Collection[Lease]
) -> Planned:
    """`configs`: what is served, the present config first. Raises FlanneldError when that cannot be served here."""
    kernel = NotingKernel(nl)
    async with AsyncExitStack() as stack:
        live = [(configs[0], await _attach(stack, nl, kernel, configs[0], here))]
        for former in configs[1:]:
            if not any(same_method(former, config) for config, _ in live):
                with suppress(FlanneldError):  # then its peers are refused
                    live.append((former, await _attach(stack, nl, kernel, former, here)))
        planned = Planned(live[0][1].attrs, live[0][1].mtu)
        left = dict.fromkeys(peers)
        for config, attached in live:
            spoken = [peer for peer in left if attached.speaks(peer)]
            for peer in spoken:
                del left[peer]
            if spoken or attached is live[0][1]:
                await _add(planned, config.backend_type, attached, own, spoken)
        planned.plans |= {peer: _foreign(peer, [config.backend_type for config, _ in live]) for peer in left}
        planned.noted = [line for line in kernel.noted if line.startswith("device ")]
        return planned


async def _attach(stack: AsyncExitStack, nl: Netlink, kernel: NotingKernel, config: NetworkConfig, here: Here) -> Network:
    backend, uplink = load_backend(config, here.identity), here.uplink
    if backend.in_user_space:
        return SeenUdp(nl, config, uplink) if config.backend_type == "udp" else SeenTap(nl, config, uplink, kernel)
    return await stack.enter_async_context(backend.attach(uplink, config, kernel))


async def _add(planned: Planned, method: str, attached: Network, own: Lease | None, peers: Collection[Lease]) -> None:
    if own is not None:
        await attached.adopt(own)
    wanted = await attached.reach(peers)
    planned.plans |= dict(wanted.plans)
    planned.shared += wanted.entries
    planned.method |= dict.fromkeys(peers, method)
    planned.owner = _together((planned.owner, attached.owner))


def _together(owners: Iterable[Owner]) -> Owner:
    networks, devices = zip(*((owner.networks, owner.devices) for owner in owners), strict=True)
    return Owner(tuple(dict.fromkeys(network for some in networks for network in some)), frozenset[int]().union(*devices))


def _foreign(peer: Lease, methods: Sequence[str]) -> Refusal:
    spoken = peer.attrs.backend_type or "udp or alloc"
    return Refusal(peer, f"speaks {spoken}, this host {' and '.join(methods)}", foreign=True)
