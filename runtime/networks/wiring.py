"""Containers brought into networks and out again, step by step, each undone when a later one fails; must not know who asks for it.

Calls for one container follow one another: who calls sees to that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress

import msgspec

from flanneld import FlanneldError
from flanneld.log import Log
from runtime.config import EndpointSettings
from runtime.containers.record import Record
from runtime.errors import Conflict, EngineError, Forbidden
from runtime.networks.blocking import to_the_end
from runtime.networks.briefing import Briefing
from runtime.networks.endpoint_checks import check_mode
from runtime.networks.membership import Membership
from runtime.networks.name_service import NameService
from runtime.networks.network import CONTAINER, HOST, NONE, Joined, Network
from runtime.networks.plans import free_ifname, plan, plans, without
from runtime.networks.plumber import Plumber
from runtime.networks.ports import Ports
from runtime.networks.publishing import with_ports
from runtime.networks.registry import Registry
from runtime.networks.sandbox import Attached, Sandbox

log = Log(__name__)


class Wiring:
    """Moves one engine's containers; who is where is in `membership`."""

    def __init__(self, plumber: Plumber, registry: Registry, membership: Membership, briefing: Briefing) -> None:
        self._plumber = plumber
        self._registry = registry
        self._membership = membership
        self._sandboxes = membership.sandboxes
        self._briefing = briefing
        self._ports = Ports()
        self._names = NameService(self._sandboxes)

    async def prepare(self, record: Record) -> Joined:
        """Make a container's namespace, bring it into its networks and publish its ports; raises EngineError, and then nothing is
        left.
        """
        await self.release(record)
        mode = record.host.network_mode
        if mode.startswith(CONTAINER):
            return self._shared(mode.removeprefix(CONTAINER))
        sandbox = self._planned(record)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._take_away, record.id)
            self._sandboxes[record.id] = sandbox
            if sandbox.netns != HOST:
                sandbox = await self._plumbed(record, sandbox)
            joined = await self._briefing.joined(record, sandbox)
            undo.pop_all()
        self._membership.tell("connect", sandbox, sandbox.attached)
        return joined

    def _shared(self, container_id: str) -> Joined:
        other = self._sandboxes.get(container_id)
        if other is None:
            raise Conflict(f"cannot join network of a non running container: {container_id}")
        return Joined(netns=other.netns, hostname=other.hostname, shares_files_of=container_id)

    def _planned(self, record: Record) -> Sandbox:
        """What the record asks for, as yet without any address."""
        mode = record.host.network_mode
        is_alone = record.config.network_disabled or mode in (HOST, NONE)
        found = [] if is_alone else [(self._registry.find(name), asked) for name, asked in record.endpoints.items()]
        return Sandbox(
            id=record.id,
            name=record.name,
            netns=HOST if mode == HOST else self._plumber.path(record.id),
            attached=plans(found, record),
            links=record.host.links,
            hostname=record.config.hostname or record.id[:12],
            upstream=self._briefing.upstream(record),
        )

    async def _plumbed(self, record: Record, sandbox: Sandbox) -> Sandbox:
        for attached in sandbox.attached:
            await self._registry.ready(self._registry.find(attached.network_id).network)
        sandbox = with_ports(record, sandbox, self._ports, self._registry)
        try:
            sandbox = await to_the_end(self._plumber.build, sandbox)
        except (FlanneldError, OSError) as error:
            raise _as_engine_error(error) from error
        self._sandboxes[sandbox.id] = sandbox
        await self._names.serve(sandbox)
        return sandbox

    async def release(self, record: Record) -> None:
        """Give everything back; nothing happens when there is nothing. Does not raise: what cannot be given back is logged."""
        gone = await self._take_away(record.id)
        if gone is not None:
            self._membership.tell("disconnect", gone, gone.attached)

    async def _take_away(self, container_id: str) -> Sandbox | None:
        sandbox = self._sandboxes.get(container_id)
        self._names.end(container_id)
        if sandbox is None:
            return None
        try:
            if sandbox.netns != HOST:
                await to_the_end(self._plumber.demolish, sandbox)
        finally:
            self._sandboxes.pop(container_id, None)
            self._ports.free(container_id)
        return sandbox

    async def connect(self, record: Record, network: Network, asked: EndpointSettings) -> Joined:
        """Bring a running container into one more network; raises Forbidden, EngineError, and then nothing has changed."""
        sandbox = self._running(record)
        if sandbox.in_network(network.id) is not None:
            raise Forbidden(f"endpoint with name {record.name} already exists in network {network.name}")
        planned = plan(self._registry.find(network.id), asked, free_ifname(sandbox), record)
        wider = msgspec.structs.replace(sandbox, attached=(*sandbox.attached, planned))
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._back_to, sandbox, planned)
            self._sandboxes[record.id] = wider
            await self._registry.ready(network)
            try:
                self._sandboxes[record.id] = wider = await to_the_end(self._plumber.extend, wider, planned)
            except (FlanneldError, OSError) as error:
                raise _as_engine_error(error) from error
            await self._names.serve(wider)
            joined = await self._briefing.joined(record, wider)
            undo.pop_all()
        self._membership.tell("connect", wider, wider.attached[-1:])
        return joined

    async def _back_to(self, sandbox: Sandbox, planned: Attached) -> None:
        with suppress(FlanneldError, OSError):
            await to_the_end(self._plumber.unplug, sandbox, planned)
            await to_the_end(self._plumber.settle, sandbox)
        self._sandboxes[sandbox.id] = sandbox

    async def disconnect(self, record: Record, network: Network) -> Joined:
        """Take a running container out of a network; raises Forbidden, EngineError."""
        sandbox = self._running(record)
        gone = sandbox.in_network(network.id)
        if gone is None:
            raise Forbidden(f"container {record.id} is not connected to network {network.name}")
        try:
            await to_the_end(self._plumber.unplug, sandbox, gone)
            self._sandboxes[record.id] = rest = without(sandbox, gone)
            self._membership.tell("disconnect", sandbox, (gone,))
            self._sandboxes[record.id] = rest = await to_the_end(self._plumber.settle, rest)
        except (FlanneldError, OSError) as error:
            raise _as_engine_error(error) from error
        return await self._briefing.joined(record, rest)

    def _running(self, record: Record) -> Sandbox:
        check_mode(record.host.network_mode)
        sandbox = self._sandboxes.get(record.id)
        if sandbox is None:
            raise Conflict(f"container {record.id} is not running")
        return sandbox

    async def restore(self, running: Iterable[Record]) -> None:
        """After a new start: serve those that run on, and take away what is left of others."""
        records = {record.id: record for record in running}
        for sandbox in await asyncio.to_thread(lambda: list(self._plumber.read_all())):
            self._sandboxes[sandbox.id] = sandbox
            record = records.pop(sandbox.id, None)
            if record is None:
                await self._take_away(sandbox.id)
                continue
            self._membership.renamed(sandbox.id, record.name)
            self._ports.hold_again(sandbox.id, sandbox.ports)
            try:
                await self._names.serve(sandbox)
            except EngineError as error:
                log.warning("no names for a container", container=sandbox.short_id, why=error)
        for record in records.values():
            if record.host.network_mode == HOST:
                self._sandboxes[record.id] = self._planned(record)

    def close(self) -> None:
        """Leave containers as they are: the next engine goes on."""
        self._names.close()
        self._ports.close()


def _as_engine_error(error: FlanneldError | OSError) -> EngineError:
    return error if isinstance(error, EngineError) else EngineError(f"failed to set up container networking: {error}")
