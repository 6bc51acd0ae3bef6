"""Networks: list, inspect, make, remove, connect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.config import EndpointSettings, Value
from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Empty, Json, Request, Response
from runtime.docker_api.filters import as_mapping, parse_filters
from runtime.networks.network import NetworkRequest

if TYPE_CHECKING:
    from runtime.networks.network import Network, Pool

FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
PRUNE_FILTERS = frozenset({"label", "label!", "until"})


class ConnectRequest(Value, frozen=True):
    """The body of POST /networks/ID/connect."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class DisconnectRequest(Value, frozen=True):
    """The body of POST /networks/ID/disconnect."""

    container: str = ""
    force: bool = False


async def list_networks(engine: Backend, request: Request) -> Response:
    """All that the filters let pass; who is in them is inspect's to tell."""
    filters = parse_filters(request.query.text("filters"), FILTERS)
    return Json([network_json(network, {}) for network in engine.networks.list(as_mapping(filters))])


async def inspect(engine: Backend, request: Request) -> Response:
    """A network and who is in it."""
    network = engine.networks.find(request.arguments["id"])
    return Json(network_json(network, _members_json(engine, network)))


def _members_json(engine: Backend, network: Network) -> dict[str, Any]:
    return {
        container_id: {
            "Name": engine.containers.find(container_id).name,
            "EndpointID": endpoint.endpoint_id,
            "MacAddress": endpoint.mac_address,
            "IPv4Address": _with_length(endpoint.ip_address, endpoint.ip_prefix_len),
            "IPv6Address": _with_length(endpoint.global_ipv6_address, endpoint.global_ipv6_prefix_len),
        }
        for container_id, endpoint in engine.networks.members(network).items()
    }


def _with_length(address: str, length: int) -> str:
    return f"{address}/{length}" if address else ""


def network_json(network: Network, members: dict[str, Any]) -> dict[str, Any]:
    """A network, in lists and by itself."""
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": network.scope,
        "Driver": network.driver,
        "EnableIPv4": network.enable_ipv4,
        "EnableIPv6": network.enable_ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": network.ipam_options or None,
            "Config": [_pool_json(pool) for pool in network.pools] or None,
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": members,
        "Options": network.options,
        "Labels": network.labels,
    }


def _pool_json(pool: Pool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "Subnet": pool.subnet,
        "IPRange": pool.ip_range,
        "Gateway": pool.gateway,
        "AuxiliaryAddresses": pool.auxiliary,
    }
    return {key: value for key, value in document.items() if value}


async def create(engine: Backend, request: Request) -> Response:
    """A network."""
    made = await engine.networks.create(await request.decoded(NetworkRequest))
    return Json({"Id": made.id, "Warning": ""}, 201)


async def remove(engine: Backend, request: Request) -> Response:
    """Remove one that nobody is in."""
    await engine.networks.remove(engine.networks.find(request.arguments["id"]))
    return Empty()


async def connect(engine: Backend, request: Request) -> Response:
    """Put a container into a network, whether it runs or not."""
    network = engine.networks.find(request.arguments["id"])
    data = await request.decoded(ConnectRequest)
    container = engine.containers.find(data.container)
    await engine.containers.connect(container, network, data.endpoint_config or EndpointSettings())
    return Empty(200)


async def disconnect(engine: Backend, request: Request) -> Response:
    """Take a container out of a network."""
    network = engine.networks.find(request.arguments["id"])
    data = await request.decoded(DisconnectRequest)
    await engine.containers.disconnect(engine.containers.find(data.container), network, data.force)
    return Empty(200)


async def prune(engine: Backend, request: Request) -> Response:
    """Remove all that nobody is in."""
    filters = parse_filters(request.query.text("filters"), PRUNE_FILTERS)
    return Json({"NetworksDeleted": list(await engine.networks.prune(as_mapping(filters))) or None})
