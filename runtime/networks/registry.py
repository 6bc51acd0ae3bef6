"""Which networks there are: predefined ones, users' bridges, the administrator's CNI networks; must not know containers.

What is in use by containers is told by who calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cni.conflist import Conflist
from flanneld import FlanneldError
from flanneld.log import Log
from runtime.errors import Conflict, EngineError, Forbidden, InvalidParameter, NotFound
from runtime.events import Events
from runtime.networks import bridge, fence
from runtime.networks.cni_networks import read_cni_networks
from runtime.networks.filters import Filters, matches
from runtime.networks.network import BRIDGE, DEFAULT, PREDEFINED, Network, NetworkRequest
from runtime.networks.network_files import NetworkFiles
from runtime.networks.new_networks import check_request, new_network, predefined
from runtime.settings import Settings

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A network, and what makes it when it is the administrator's."""

    network: Network
    conflist: Conflist | None = None


class Registry:
    """All networks of an engine."""

    def __init__(self, directory: Path, events: Events, settings: Settings) -> None:
        self._files = NetworkFiles(directory)
        self._events = events
        self._settings = settings
        self._ours: dict[str, Network] = {}
        """By id."""
        self._raised: set[str] = set()
        """Networks whose bridge this engine has seen to. If it goes, the plugin makes it again, and the fence is about its name."""
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read what is kept, make the predefined ones that are not there yet, and put users' bridges in order after a reboot."""
        self._ours = await asyncio.to_thread(lambda: {network.id: network for network in self._files.read_all()})
        for name in PREDEFINED:
            if all(network.name != name for network in self._ours.values()):
                await self._keep(await asyncio.to_thread(predefined, name, self._settings))
        await self._raise_all([each for each in self._ours.values() if each.driver == "bridge" and each.name != BRIDGE])

    async def _raise_all(self, networks: Sequence[Network]) -> None:
        """What fails is tried again by the first container. One change of the fence for all: it takes longer than a bridge."""
        try:
            for network in networks:
                try:
                    await asyncio.to_thread(bridge.make_bridge, network)
                    self._raised.add(network.id)
                except (FlanneldError, OSError) as error:
                    log.warning("bridge not made", network=network.name, why=error)
            if networks:
                await asyncio.to_thread(self._fence)
        except (FlanneldError, OSError) as error:
            self._raised.clear()
            log.warning("networks not fenced", why=error)

    def all(self) -> Iterator[Found]:
        """Ours in the order they were made, then the administrator's."""
        for network in sorted(self._ours.values(), key=lambda each: (not each.is_predefined, each.created)):
            yield Found(network)
        names = {network.name for network in self._ours.values()}
        for network, conflist in read_cni_networks(self._settings.cni_conf_dir).values():
            if network.name not in names:
                yield Found(network, conflist)

    def find(self, reference: str) -> Found:
        """By name, id or the beginning of one id; raises NotFound, InvalidParameter (several)."""
        reference = BRIDGE if reference == DEFAULT else reference
        known = list(self.all())
        for wanted in (
            lambda each: each.network.name == reference,
            lambda each: each.network.id == reference,
            lambda each: reference in each.network.aliases,
        ):
            if found := next(filter(wanted, known), None):
                return found
        begun = [each for each in known if reference and each.network.id.startswith(reference)]
        if len(begun) > 1:
            raise InvalidParameter(f"network {reference} is ambiguous ({len(begun)} matches found based on ID prefix)")
        if not begun:
            raise NotFound(f"network {reference} not found")
        return begun[0]

    def list(self, filters: Filters, in_use: Callable[[Network], bool]) -> list[Network]:
        """Those that all filters let through; raises InvalidParameter for a filter that there is not."""
        return [each.network for each in self.all() if matches(each.network, filters, in_use)]

    async def create(self, request: NetworkRequest) -> Network:
        """Make a user's bridge; raises InvalidParameter, Conflict, Forbidden, NotFound, EngineError."""
        check_request(request)
        async with self._changing:
            if any(request.name in (each.network.name, *each.network.aliases) for each in self.all()):
                raise Conflict(f"network with name {request.name} already exists")
            taken = [pool.network for network in self._ours.values() for pool in network.pools]
            network = await asyncio.to_thread(new_network, request, self._settings, taken)
            bridge.check_options(network)
            self._refuse_bridge_of_another(network)
            is_there = await asyncio.to_thread(bridge.is_there, network.bridge)
            network = msgspec.structs.replace(network, owns_bridge=not is_there)
            try:
                await self._keep(network)
                await self.ready(network)
            except BaseException:
                await self._undo(network)
                raise
        self._events.tell("network", "create", network.id, {"name": network.name, "type": network.driver})
        return network

    async def remove(self, network: Network, refuse_in_use: Callable[[Network], None]) -> None:
        """Take a user's bridge away, which nobody may be in; raises Forbidden, NotFound, EngineError."""
        if network.is_predefined:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if network.driver == "cni":
            raise Forbidden(f"{network.name} is a CNI network of {self._settings.cni_conf_dir}: remove its file there")
        async with self._changing:
            if network.id not in self._ours:
                raise NotFound(f"network {network.name} not found")
            refuse_in_use(network)
            await self._undo(network)
        self._events.tell("network", "destroy", network.id, {"name": network.name, "type": network.driver})

    async def ready(self, network: Network) -> None:
        """See to it that a bridge network's bridge is there and fenced; raises EngineError."""
        if network.driver != "bridge" or network.id in self._raised:
            return
        try:
            await asyncio.to_thread(bridge.make_bridge, network)
            await asyncio.to_thread(self._fence)
        except (FlanneldError, OSError) as error:
            raise EngineError(f"bridge {network.bridge} of network {network.name} cannot be made: {error}") from error
        self._raised.add(network.id)

    def _fence(self) -> None:
        bridges = [network for network in self._ours.values() if network.driver == "bridge"]
        fence.fence(
            [each.bridge for each in bridges if not each.internal and each.flag("bridge.enable_ip_masquerade", True)],
            [each.bridge for each in bridges if each.internal],
        )

    async def _undo(self, network: Network) -> None:
        self._raised.discard(network.id)
        self._ours.pop(network.id, None)  # first: nobody is to join it now
        await asyncio.to_thread(bridge.remove_bridge, network)
        await asyncio.to_thread(self._files.remove, network)
        await asyncio.to_thread(self._fence)

    def _refuse_bridge_of_another(self, network: Network) -> None:
        for other in self._ours.values():
            if other.driver == "bridge" and other.bridge == network.bridge:
                these = f"{network.id} ({network.bridge}): conflicts with network {other.id} ({other.bridge})"
                raise Forbidden(f"cannot create network {these}: networks have same bridge name")

    async def _keep(self, network: Network) -> None:
        await asyncio.to_thread(self._files.write, network)
        self._ours[network.id] = network
