"""All registries, as one engine knows them; must not know what images are.

One object an engine: it shares connections and tokens between everybody who pulls and pushes.
"""

from __future__ import annotations

import asyncio

from runtime.images.reference import Reference
from runtime.images.registry.auth import Credentials, Tokens
from runtime.images.registry.downloads import Downloads
from runtime.images.registry.repository import Connections, Repository
from runtime.images.registry.settings import RegistrySettings
from runtime.images.registry.transport import Transport


class Registries:
    """Every registry there is, through one engine's settings."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        transport = Transport(settings.certificates)
        self.downloads = Downloads()
        self.connections = Connections(transport, Tokens(transport))

    async def aclose(self) -> None:
        """Close every connection; nothing may be on its way any more."""
        await asyncio.to_thread(self.downloads.unpackers.shutdown)
        await self.connections.transport.aclose()

    def repository(self, reference: Reference, credentials: Credentials | None, *, for_push: bool = False) -> Repository:
        """Where an image is pulled from or pushed to; raises InvalidParameter for a mirror that is no URL."""
        endpoints = self.settings.endpoints(reference.host, for_pull=not for_push)
        scope = f"repository:{reference.path}:{'pull,push' if for_push else 'pull'}"
        return Repository(self.connections, endpoints, reference.path, (scope,), credentials)
