"""DNS for those containers that have names: a server each, made and ended with them; must not know DNS messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from flanneld import FlanneldError
from runtime.errors import EngineError
from runtime.networks.names import addresses_by_name, name_by_address
from runtime.networks.plans import upstream
from runtime.networks.sandbox import Sandbox

if TYPE_CHECKING:
    from runtime.networks.dns_server import DnsServer


class NameService:
    """All servers of an engine. `everybody` is looked at for each answer."""

    def __init__(self, everybody: Mapping[str, Sandbox]) -> None:
        self._everybody = everybody
        self._servers: dict[str, DnsServer] = {}

    async def serve(self, sandbox: Sandbox) -> None:
        """Serve a container, if it is in a network with names and is not served yet; raises EngineError."""
        if sandbox.id in self._servers or not any(attached.has_names for attached in sandbox.attached):
            return
        from runtime.networks.dns import Answering  # here: dnspython takes 60 ms to import, and many engines never need it
        from runtime.networks.dns_server import DnsServer

        def now() -> tuple[Sandbox, Collection[Sandbox]]:
            return self._everybody.get(sandbox.id, sandbox), self._everybody.values()

        knows = Answering(lambda name: addresses_by_name(*now(), name), lambda address: name_by_address(*now(), address))
        server = DnsServer(knows, lambda: upstream(now()[0]))
        try:
            await server.start(sandbox.netns)
        except (FlanneldError, OSError) as error:
            raise EngineError(f"failed to set up container networking: no DNS for {sandbox.name}: {error}") from error
        self._servers[sandbox.id] = server

    def end(self, container_id: str) -> None:
        """Serve a container no more; nothing happens when it was not served."""
        server = self._servers.pop(container_id, None)
        if server is not None:
            server.close()

    def close(self) -> None:
        """Serve nobody."""
        for container_id in list(self._servers):
            self.end(container_id)
