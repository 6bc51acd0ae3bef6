"""Networks as the rest of the engine sees them: which there are, and who is in them; must not know how either is done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from flanneld import FlanneldError
from flanneld.log import Log
from runtime.config import EndpointSettings
from runtime.containers.record import Record
from runtime.errors import EngineError, Forbidden
from runtime.events import Events
from runtime.layout import Layout
from runtime.networks.attach import Attacher
from runtime.networks.briefing import Briefing
from runtime.networks.endpoint_checks import check_endpoint, check_endpoints
from runtime.networks.filters import Filters
from runtime.networks.membership import Membership
from runtime.networks.network import Joined, Network, NetworkRequest
from runtime.networks.plumber import Plumber
from runtime.networks.registry import Registry
from runtime.networks.resident import Node
from runtime.networks.wiring import Wiring
from runtime.settings import Settings

log = Log(__name__)


class Networks:
    """All networks of an engine, and what its containers have of them.

    Calls for one container follow one another; calls for different ones may come at once.
    """

    def __init__(self, layout: Layout, events: Events, settings: Settings, node: Node | None = None) -> None:
        self._node = node or Node()
        self._events = events
        self._attacher = Attacher(settings.cni_bin_dir, self._node)
        self._registry = Registry(layout.networks, events, settings)
        self._membership = Membership(events)
        briefing = Briefing(self._registry, self._membership, settings.dns)
        self._wiring = Wiring(Plumber(layout.netns, self._attacher), self._registry, self._membership, briefing)

    async def load(self) -> None:
        """Read which networks there are; to be called once, before all else. Raises OSError."""
        await self._registry.load()

    async def restore(self, running: Iterable[Record]) -> None:
        """After a new start: serve the containers that run on, take away what is left of others."""
        await self._wiring.restore(running)
        await asyncio.to_thread(self._attacher.reconcile)

    async def close(self) -> None:
        """Let go, and leave containers as they are: the next engine goes on."""
        self._wiring.close()
        await asyncio.to_thread(self._node.close)

    def find(self, reference: str) -> Network:
        """By name, id or the beginning of one id; raises NotFound, InvalidParameter."""
        return self._registry.find(reference).network

    def list(self, filters: Filters) -> list[Network]:
        """Those that the filters let through; raises InvalidParameter."""
        return self._registry.list(filters, lambda network: bool(self.members(network)))

    async def create(self, request: NetworkRequest) -> Network:
        """Make a user's bridge; raises InvalidParameter, Conflict, Forbidden, NotFound, NotSupported, EngineError."""
        return await self._registry.create(request)

    async def remove(self, network: Network) -> None:
        """Take a user's bridge away; raises Forbidden (predefined, or somebody is in it), NotFound, EngineError."""
        try:
            await self._registry.remove(network, self._membership.refuse_in_use)
        except FlanneldError as error:
            if isinstance(error, EngineError):
                raise
            raise EngineError(f"error while removing network: {error}") from error

    async def prune(self, filters: Filters) -> tuple[str, ...]:
        """Remove all users' bridges that nobody is in, and that the filters let through; returns their names."""
        unused = self.list({**filters, "dangling": ("true",)})
        gone = []
        for network in unused:
            try:
                await self.remove(network)
                gone.append(network.name)
            except EngineError as error:  # somebody has come since
                log.warning("network not pruned", network=network.name, why=error)
        self._events.tell("network", "prune", "", {"reclaimed": "0"})
        return tuple(gone)

    def check_endpoints(self, asked: Mapping[str, EndpointSettings]) -> None:
        """Raise InvalidParameter, NotFound unless a container can be asked to join these networks."""
        check_endpoints({name: (self.find(name), settings) for name, settings in asked.items()})

    async def prepare(self, record: Record) -> Joined:
        """Plumb a container that is about to start; raises EngineError in Docker's words, and then nothing is left."""
        self.check_endpoints(record.endpoints)
        return await self._wiring.prepare(record)

    async def release(self, record: Record) -> None:
        """Give back all that a container has; may be repeated, does not raise."""
        await self._wiring.release(record)

    async def connect(self, record: Record, network: Network, asked: EndpointSettings) -> Joined:
        """Bring a running container into one more network; what it is told of its networks is in the answer, and to be written into
        its files in place. Raises InvalidParameter, Forbidden, Conflict, EngineError.
        """
        check_endpoint(network, asked)
        return await self._wiring.connect(record, network, asked)

    async def disconnect(self, record: Record, network: Network, force: bool = False) -> Joined | None:
        """Take a running container out of a network; with `force` one that is not in it is no error (None). Raises Forbidden,
        Conflict, EngineError.
        """
        try:
            return await self._wiring.disconnect(record, network)
        except Forbidden:
            if force and record.id not in self.members(network):
                return None
            raise

    def members(self, network: Network) -> dict[str, EndpointSettings]:
        """Who is in a network now, by container's id."""
        return self._membership.members(network)

    def renamed(self, container_id: str, name: str) -> None:
        """A container has another name, and answers to it from now on."""
        self._membership.renamed(container_id, name)
