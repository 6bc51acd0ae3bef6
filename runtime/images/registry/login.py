"""Whether a user's credentials are good for a registry; must not know what they will be used for."""

from __future__ import annotations

from urllib.parse import urlsplit

from runtime.errors import EngineError, Unauthorized
from runtime.images.reference import HUB, parse_reference
from runtime.images.registry.auth import Credentials, parse_challenges
from runtime.images.registry.refusals import Unreachable
from runtime.images.registry.registries import Registries
from runtime.images.registry.settings import Endpoint
from runtime.images.registry.transport import Request

HUB_NAMES = frozenset({"", HUB, "index.docker.io", "registry-1.docker.io"})
"""What clients call Docker Hub."""


async def login(registries: Registries, credentials: Credentials) -> str:
    """Find out whether credentials are good; returns what to tell the user. Raises Unauthorized, Unreachable."""
    host = registry_host(credentials.server)
    endpoints = registries.settings.endpoints(host, for_pull=False)
    for endpoint in endpoints[:-1]:
        try:
            return await _login(registries, endpoint, credentials)
        except Unreachable:
            continue
    return await _login(registries, endpoints[-1], credentials)


async def _login(registries: Registries, endpoint: Endpoint, credentials: Credentials) -> str:
    url, transport = f"{endpoint.url}/v2/", registries.connections.transport
    response = await transport.open(endpoint, Request("GET", url))
    challenges = parse_challenges(response.headers.get_list("www-authenticate"))
    await response.aclose()
    if response.status_code == 401:
        header = await registries.connections.tokens.header(endpoint, challenges, (), credentials, "")
        response = await transport.open(endpoint, Request("GET", url, {"Authorization": header} if header else {}))
        await response.aclose()
    if response.status_code != 200:
        kind = Unauthorized if response.status_code in (401, 403) else EngineError
        raise kind(f"login attempt to {url} failed with status: {response.status_code} {response.reason_phrase}")
    return "Login Succeeded"


def registry_host(server: str) -> str:
    """The registry that a client's "serveraddress" means: a host, or a URL as of old ("https://index.docker.io/v1/")."""
    host = (urlsplit(server).netloc if "://" in server else server.partition("/")[0]).lower()
    if host in HUB_NAMES:
        return HUB
    return parse_reference(f"{host}/x").host
