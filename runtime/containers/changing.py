"""Changing a container without starting or ending it: its name, its limits, its networks; must not know how these work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from runtime.config import EndpointSettings, Resources, RestartPolicy
from runtime.containers import bundle
from runtime.containers.check_resources import check_resources
from runtime.containers.container import Container
from runtime.containers.index import Index
from runtime.containers.lifecycle import Lifecycle
from runtime.containers.parts import Parts
from runtime.containers.resources import resources
from runtime.containers.transitions import Verb, check
from runtime.containers.update import updated
from runtime.errors import Conflict, EngineError, InvalidParameter, NotFound
from runtime.linux.controllers import controllers

if TYPE_CHECKING:
    from runtime.networks.network import Joined, Network


class Changer:
    """One engine's."""

    def __init__(self, parts: Parts, index: Index, lifecycle: Lifecycle) -> None:
        self._parts = parts
        self._index = index
        self._lifecycle = lifecycle

    async def rename(self, container: Container, name: str) -> None:
        """Give it another name; raises InvalidParameter, Conflict (in use), OSError."""
        async with container.lock:
            check(Verb.RENAME, container.record)
            old = container.name
            if not name.removeprefix("/"):
                raise InvalidParameter("Neither old nor new names may be empty")
            if name.removeprefix("/") == old:
                raise InvalidParameter("Renaming a container with the same name as its current name")
            plain = self._index.take(name, container.id)
            try:
                await container.save(msgspec.structs.replace(container.record, name=plain))
            except BaseException:
                self._index.free(plain)
                raise
            container.change(name=plain)
            self._index.free(old)
            self._parts.networks.renamed(container.id, plain)
            self._lifecycle.tell(container, "rename", oldName=f"/{old}")

    async def update(self, container: Container, asked: Resources, policy: RestartPolicy | None) -> list[str]:
        """Change limits, of a running container at once, and its policy; returns warnings. Raises Conflict, InvalidParameter."""
        async with container.lock:
            check(Verb.UPDATE, container.record)
            host = updated(container.record.host, asked, policy)
            warnings = check_resources(asked, controllers(), update=True)
            limits = resources(asked)
            if container.is_running and limits:
                try:
                    await self._parts.runc.update(container.id, limits)
                except EngineError as error:
                    raise EngineError(f"Cannot update container {container.id}: {error}") from error
            await container.save(msgspec.structs.replace(container.record, host=host))
            container.change(host=host)
            self._lifecycle.tell(container, "update")
            return warnings

    async def connect(self, container: Container, network: Network, asked: EndpointSettings) -> None:
        """Bring it into one more network, now or at its next start; raises InvalidParameter, Conflict, Forbidden, EngineError."""
        networks = self._parts.networks
        asked = msgspec.structs.replace(asked, network_id=network.id)
        async with container.lock:
            if container.record.host.network_mode.startswith("container:"):
                raise InvalidParameter("container sharing network namespace with another container or host cannot be connected")
            if container.is_running:
                joined = await networks.connect(container.record, network, asked)
                await self._told(container, joined, {**container.record.endpoints, **joined.endpoints})
                return
            if network.name in container.record.endpoints:
                raise Conflict(f"endpoint with name {container.name} already exists in network {network.name}")
            endpoints = {**container.record.endpoints, network.name: asked}
            networks.check_endpoints(endpoints)
            await self._keep(container, endpoints)

    async def disconnect(self, container: Container, network: Network, force: bool) -> None:
        """Take it out of a network, now or for its next start; raises NotFound, Forbidden, Conflict, EngineError."""
        async with container.lock:
            rest = {name: asked for name, asked in container.record.endpoints.items() if name != network.name}
            if container.is_running:
                joined = await self._parts.networks.disconnect(container.record, network, force)
                if joined is not None:
                    await self._told(container, joined, {name: joined.endpoints.get(name, old) for name, old in rest.items()})
                return
            if network.name not in container.record.endpoints and not force:
                raise NotFound(f"container {container.id} is not connected to network {network.name}")
            await self._keep(container, rest)

    async def _told(self, container: Container, joined: Joined, endpoints: dict[str, EndpointSettings]) -> None:
        """A running container's files and record say what networks it is in now."""
        texts = {bundle.HOSTS: joined.etc_hosts, bundle.RESOLV_CONF: joined.resolv_conf}
        await asyncio.to_thread(bundle.write_etc, container.directory, {name: text for name, text in texts.items() if text})
        container.change(ports={port: tuple(bindings) for port, bindings in joined.ports.items()})
        await self._keep(container, endpoints)

    async def _keep(self, container: Container, endpoints: dict[str, EndpointSettings]) -> None:
        container.change(endpoints=endpoints)
        await container.save()
