"""GET /containers/NAME/json: all that is known of one container."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.config import encode
from runtime.containers.record import Life, Record, State
from runtime.docker_api.backend import Backend
from runtime.docker_api.container_list import sizes_json
from runtime.docker_api.exchange import Json, Request, Response
from runtime.docker_api.rendering import config_json, endpoint_json, host_json, mounts_json, ports_json
from runtime.networks.names import split_link

if TYPE_CHECKING:
    from runtime.containers.container import Container

DEFAULT_NETWORK = "bridge"
"""Whose addresses stand once more at the top of NetworkSettings, for clients older than networks."""
_OLD_KEYS = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)


async def inspect(engine: Backend, request: Request) -> Response:
    """A container, with its sizes when asked to measure."""
    container = engine.containers.find(request.arguments["name"])
    sizes = await sizes_json(engine, container) if request.query.flag("size") else {}
    return Json(view_json(engine, container) | sizes)


def view_json(engine: Backend, container: Container) -> dict[str, Any]:
    """The whole view, without sizes."""
    record = container.record
    files = {f"{key}Path": str(container.directory / name) for key, name in _FILES.items()}
    return {
        "Id": record.id,
        "Created": record.created,
        "Path": record.path,
        "Args": list(record.args),
        "State": state_json(record.life),
        "Image": record.image_id,
        **files,
        "LogPath": record.log_path,
        "Name": f"/{record.name}",
        "RestartCount": record.life.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": engine.execs.of(container) or None,
        "HostConfig": host_json(record.host) | {"Links": _links(record)},
        "GraphDriver": {"Name": "overlay2", "Data": _directories(container)},
        "Mounts": mounts_json(record),
        "Config": config_json(record.config),
        "NetworkSettings": network_settings_json(record, engine.settings.layout.netns / record.id),
    }


_FILES = {"ResolvConf": "resolv.conf", "Hostname": "hostname", "Hosts": "hosts"}


def _links(record: Record) -> list[str] | None:
    """With whose name each is: "/web:/client/alias"."""
    return [f"/{target}:/{record.name}/{alias}" for target, alias in map(split_link, record.host.links)] or None


def _directories(container: Container) -> dict[str, str]:
    return {
        "ID": container.id,
        "LowerDir": ":".join(str(lower) for lower in container.lowers),
        "MergedDir": str(container.rootfs),
        "UpperDir": str(container.upper),
        "WorkDir": str(container.directory / "work"),
    }


def state_json(life: Life) -> dict[str, Any]:
    """State: one word, and older truth values that are not exclusive."""
    document: dict[str, Any] = {
        "Status": life.state,
        "Running": life.state in (State.RUNNING, State.PAUSED, State.RESTARTING),
        "Paused": life.state is State.PAUSED,
        "Restarting": life.state is State.RESTARTING,
        "OOMKilled": life.oom_killed,
        "Dead": life.state is State.DEAD,
        "Pid": life.pid,
        "ExitCode": life.exit_code,
        "Error": life.error,
        "StartedAt": life.started_at,
        "FinishedAt": life.finished_at,
    }
    return document | ({"Health": encode(life.health)} if life.health is not None else {})


def network_settings_json(record: Record, netns: Path) -> dict[str, Any]:
    """NetworkSettings: its networks, its ports. `netns`: where its network namespace is kept if it has one of its own."""
    has_own = (
        record.life.pid
        and record.host.network_mode not in ("host", "none")
        and not record.host.network_mode.startswith("container:")
    )
    networks = {name: endpoint_json(endpoint) for name, endpoint in record.endpoints.items()}
    default = networks.get(DEFAULT_NETWORK, {})
    return {
        "Bridge": "",
        "SandboxID": record.id if has_own else "",
        "SandboxKey": record.netns or (str(netns) if has_own else ""),
        "Ports": ports_json(record),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **{key: default.get(key, 0 if key.endswith("Len") else "") for key in _OLD_KEYS},
        "Networks": networks,
    }
