"""All methods of reaching peers that are live on this host, and the one reconcile for them; must not know where leases come from.

As a rule there is one. After the backend was changed there are two, until no peer is left that speaks the former one: each peer's
lease says which it speaks, and packets come in by either. So hosts change over one by one, and no packet is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace

from flanneld import FlanneldError
from flanneld.backend import (
    Backend,
    Carrying,
    Identity,
    Learning,
    Measured,
    Network,
    Refusal,
    SourceChecking,
    Uplink,
    Wanted,
    load_backend,
)
from flanneld.config import NetworkConfig
from flanneld.kernel import Entry, Kernel, Owner
from flanneld.lease import Judged, Lease
from flanneld.linux.lock import hold
from flanneld.log import Log
from flanneld.program import Programmed, Programmer

log = Log(__name__)

LINGER_S = 10.0
"""A method that no peer speaks any more stays so long: peers hear of our new lease some time after we heard of theirs."""


@dataclass(slots=True)
class Live:
    """One attached method."""

    config: NetworkConfig
    uplink: Uplink
    devices: tuple[str, ...]
    attached: Network
    resources: AsyncExitStack
    spoken_at: float
    """When a peer last spoke it."""

    def is_of(self, config: NetworkConfig, uplink: Uplink) -> bool:
        """True if this is what that config asks for over that uplink."""
        return self.uplink == uplink and same_method(self.config, config)


def same_method(a: NetworkConfig, b: NetworkConfig) -> bool:
    """True if both configs ask for the same of a backend."""
    return (a.pools, a.backend_type, a.backend) == (b.pools, b.backend_type, b.backend)


@dataclass(slots=True)
class Mesh:
    """The methods, the present one first. Calls wait for each other."""

    kernel: Kernel
    tasks: asyncio.TaskGroup
    """Where user-space data planes run."""
    identity: Identity = field(default_factory=Identity)
    news: Callable[[], None] = lambda: None
    """Called when a method has heard of another way to peers."""
    now: Callable[[], float] = time.monotonic
    _live: list[Live] = field(default_factory=list)
    _own: Lease | None = None
    _programmer: Programmer = field(default_factory=Programmer)
    _places: Judged[int | None] = field(init=False)
    """Which method each peer is to be reached by."""
    _peers: Collection[Lease] = ()
    """As of the last round."""
    _late: Sequence[Lease] = ()
    """Those that their present method did not reach yet, as they were before."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._places = Judged(self._place_of)

    @property
    def current(self) -> Network:
        """The method that our lease publishes."""
        return self._live[0].attached

    @property
    def configs(self) -> tuple[str, ...]:
        """The texts of the network configs that are served, the present one first."""
        return tuple(live.config.text for live in self._live)

    @property
    def methods(self) -> tuple[str, ...]:
        """The live methods' names, the present one first."""
        return tuple(live.config.backend_type for live in self._live)

    @property
    def carrying(self) -> tuple[tuple[str, Carrying], ...]:
        """Methods whose packets pass through this process, by name."""
        return tuple((live.config.backend_type, live.attached) for live in self._live if isinstance(live.attached, Carrying))

    @property
    def measured(self) -> tuple[Measured, ...]:
        """Methods that have measures of their own."""
        return tuple(live.attached for live in self._live if isinstance(live.attached, Measured))

    @property
    def owner(self) -> Owner:
        """All that is ours in the kernel."""
        owners = [live.attached.owner for live in self._live]
        networks = dict.fromkeys(network for owner in owners for network in owner.networks)
        return Owner(tuple(networks), frozenset[int]().union(*(owner.devices for owner in owners)))

    async def serve(self, config: NetworkConfig, uplink: Uplink, former: Sequence[NetworkConfig] = ()) -> None:
        """Make this the present method; what was before stays live beside it, and so does `former`, unless it is in the way.

        Raises FlanneldError when it cannot be; then everything is as it was.
        """
        async with self._turn:
            self._unlearn()
            await self._serve(config, uplink, former)

    async def _serve(self, config: NetworkConfig, uplink: Uplink, former: Sequence[NetworkConfig]) -> None:
        before = list(self._live)
        chosen = next((live for live in before if live.is_of(config, uplink)), None)
        if chosen is None:
            chosen = await self._replace(config, uplink)
        others = [live for live in before if live in self._live and live is not chosen]
        self._live = [chosen]
        known = [live.config for live in others]
        for live in others:
            self._live += [live] if live.uplink == uplink else await self._follow(live, uplink)
        for wanted in former:
            if not any(same_method(wanted, config) for config in (config, *known)) and may_live_beside(wanted, self._live):
                self._live += await self._attach_former(wanted, uplink)

    async def adopt(self, own: Lease) -> None:
        """Take our own subnet into each method; may be repeated. Raises FlanneldError."""
        async with self._turn:
            self._own = own
            self._unlearn()
            for live in self._live:
                await live.attached.adopt(own)

    def expects(self, entry: Entry, *, deleted: bool) -> bool:
        """True if this notice of the kernel's tells what we know: that an entry of ours is there, or that none is in its slot.

        The kernel leaves out half of what it says of an entry that has gone.
        """
        return self._programmer.knows(entry, deleted=deleted)

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Programmed:
        """Bring the kernel to exactly these peers, each by the method that it speaks. Raises FlanneldError.

        Not `disturbed`: the kernel has told of no change since the last call, and need not be read again.
        """
        async with self._turn:
            if disturbed:
                self._programmer.forget()
            return await self._reach(peers, disturbed=disturbed)

    async def _reach(self, peers: Collection[Lease], *, disturbed: bool) -> Programmed:
        by_method: dict[int, list[Lease]] = {place: [] for place in range(len(self._live))}
        refused: list[Refusal] = []
        for peer, place in self._places.of(peers):
            if place is None:
                spoken = peer.attrs.backend_type or "udp or alloc"
                refused.append(Refusal(peer, f"speaks {spoken}, not {' or '.join(self.methods)}", foreign=True))
            else:
                by_method[place].append(peer)
        wants, late = [], list[Lease]()
        for live, spoken_by in zip(list(self._live), by_method.values(), strict=True):
            spoken_by += [peer for peer in late if live.attached.speaks(peer)]
            if spoken_by:
                live.spoken_at = self.now()
            if isinstance(live.attached, SourceChecking):
                live.attached.hear(peers)
            wants.append(await self._wanted(live, spoken_by, disturbed=disturbed))
            late += self._as_they_were(wants[-1])
        self._peers, self._late = peers, late
        done = self._programmer.program(self.kernel, self.owner, wants)
        return replace(done, refused=(*refused, *done.refused))

    def _as_they_were(self, wanted: Wanted) -> list[Lease]:
        """The peers for which it must be waited, as another method has reached them: packets go that way meanwhile."""
        waiting = {plan.lease.subnets: plan.lease for _, plan in wanted.plans if isinstance(plan, Refusal) and plan.pending}
        if not waiting:
            return []
        known = {peer.subnets: peer for peer in (*self._peers, *self._late) if peer.subnets in waiting}
        return [peer for who, peer in known.items() if peer.attrs.backend_type != waiting[who].attrs.backend_type]

    async def retire(self) -> bool:
        """Take away each former method that nobody has spoken for a while; true if one went. May be repeated."""
        async with self._turn:
            done = [live for live in self._live[1:] if self.now() - live.spoken_at > LINGER_S]
            for live in done:
                self._unlearn()
                self._live.remove(live)
                with suppress(FlanneldError):
                    live.attached.remove()
                await live.resources.aclose()
                log.info("former backend retired", backend=live.config.backend_type)
        return bool(done)

    async def close(self) -> None:
        """Detach everything; kernel state stays."""
        while self._live:
            await self._live.pop().resources.aclose()

    def _place_of(self, peer: Lease) -> int | None:
        """Which method the peer is to be reached by; one that is ours by name can say best what is wrong with the peer."""
        for place, live in enumerate(self._live):
            if live.attached.speaks(peer):
                return place
        return 0 if peer.attrs.backend_type and peer.attrs.backend_type == self._live[0].config.backend_type else None

    def _unlearn(self) -> None:
        """There are other methods now, or they are other devices' and addresses'."""
        self._programmer.forget()
        self._places.forget()

    async def _wanted(self, live: Live, peers: Collection[Lease], *, disturbed: bool) -> Wanted:
        """What one method needs; a former one that no peer speaks needs nothing, and trouble with it is its peers' only."""
        former = live is not self._live[0]
        try:
            wanted = await live.attached.reach(peers, disturbed=disturbed)
            return Wanted() if former and not peers else wanted
        except FlanneldError as error:
            if not former:
                raise
            return Wanted([(peer, Refusal(peer, f"speaks {live.config.backend_type}, which fails: {error}")) for peer in peers])

    async def _replace(self, config: NetworkConfig, uplink: Uplink) -> Live:
        """Attach a method, after whatever is in its way has been detached, which comes back if that fails."""
        backend = load_backend(config, self.identity)
        in_the_way = [live for live in self._live if excludes(backend, config, live)]
        for live in in_the_way:
            self._live.remove(live)
            await live.resources.aclose()
        try:
            chosen = await self._attach(backend, config, uplink)
        except FlanneldError:
            for live in in_the_way:
                self._live.insert(0, await self._attach(load_backend(live.config, self.identity), live.config, live.uplink))
            raise
        for device in {device for live in in_the_way for device in live.devices} - set(chosen.devices):
            self.kernel.remove_link(device)  # of a family that is not used any more
        return chosen

    async def _follow(self, live: Live, uplink: Uplink) -> list[Live]:
        """A former method over another uplink."""
        await live.resources.aclose()
        followed = await self._attach_former(live.config, uplink)
        for one in followed:
            one.spoken_at = live.spoken_at  # nobody speaks it any more than before
        return followed

    async def _attach_former(self, config: NetworkConfig, uplink: Uplink) -> list[Live]:
        try:
            live = await self._attach(load_backend(config, self.identity), config, uplink)
            if self._own is not None:
                await live.attached.adopt(self._own)
        except FlanneldError as error:
            log.warning("former backend not served", backend=config.backend_type, why=error)
            return []
        log.info("former backend served", backend=config.backend_type)
        return [live]

    async def _attach(self, backend: Backend, config: NetworkConfig, uplink: Uplink) -> Live:
        async with AsyncExitStack() as stack:
            devices = backend.devices(config)
            for device in devices:
                stack.enter_context(hold(f"device {device}", f"the device {device}, expected another VNI for each network"))
            attached = await stack.enter_async_context(backend.attach(uplink, config, self.kernel))
            if isinstance(attached, Learning):
                attached.news = lambda: self.news()
            running = self.tasks.create_task(attached.run())
            stack.push_async_callback(_end, running)
            return Live(config, uplink, devices, attached, stack.pop_all(), self.now())


def excludes(backend: Backend, config: NetworkConfig, live: Live) -> bool:
    """True if the method cannot be attached beside that one: they would have a device or a port in common."""
    return config.backend_type == live.config.backend_type and (
        not live.devices or bool(set(backend.devices(config)) & set(live.devices))
    )


def may_live_beside(former: NetworkConfig, live: Iterable[Live]) -> bool:
    """True if a former method is in nobody's way and carries the same families."""
    present = list(live)
    families = [pool.family for pool in present[0].config.pools]
    if [pool.family for pool in former.pools] != families:
        return False
    try:
        backend = load_backend(former)
    except FlanneldError:
        return False
    return not any(excludes(backend, former, other) for other in present)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
