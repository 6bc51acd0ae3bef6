"""The Engine API, served: one engine behind one socket; must not know a single route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runtime.docker_api.backend import Backend, engine_version
from runtime.docker_api.clients import serving
from runtime.docker_api.router import Router
from runtime.docker_api.target import API_VERSION, text_of


@asynccontextmanager
async def serve(path: Path, engine: Backend, group: str = "docker") -> AsyncIterator[None]:
    """Serve the API within the context. Raises Unavailable when another engine does so there."""
    headers = (
        ("Api-Version", text_of(API_VERSION)),
        ("Docker-Experimental", "false"),
        ("Ostype", "linux"),
        ("Server", f"Tartan/{engine_version()} (linux)"),
    )
    async with serving(path, Router(engine).answer, group, headers):
        yield
