"""Values of requests and records as JSON objects in the very shape of Docker's, in which some empty lists are null and some empty
fields absent; must not know which answer they are put into.
"""

from __future__ import annotations

from typing import Any

from runtime.config import ContainerConfig, EndpointSettings, HostConfig, PortBinding, encode
from runtime.containers.paths import paths
from runtime.containers.record import MountPoint, Record

_CONFIG_ABSENT = frozenset(
    {"ArgsEscaped", "ExposedPorts", "Healthcheck", "MacAddress", "NetworkDisabled", "Shell", "StopSignal", "StopTimeout"}
)
_CONFIG_NULL = frozenset({"Cmd", "Entrypoint", "Env", "OnBuild", "Volumes"})
_IMAGE_CONFIG = frozenset(
    {
        "User",
        "ExposedPorts",
        "Env",
        "Cmd",
        "Healthcheck",
        "ArgsEscaped",
        "Volumes",
        "WorkingDir",
        "Entrypoint",
        "OnBuild",
        "Labels",
        "StopSignal",
        "Shell",
    }
)
_HOST_ABSENT = frozenset({"Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs", "Unified"})
_HOST_NULL = frozenset(
    {
        "Binds",
        "CapAdd",
        "CapDrop",
        "DeviceCgroupRules",
        "DeviceRequests",
        "ExtraHosts",
        "GroupAdd",
        "Links",
        "SecurityOpt",
        "VolumesFrom",
    }
)
_WINDOWS = {"CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0}
"""Clients' structures have them."""


def config_json(config: ContainerConfig) -> dict[str, Any]:
    """The Config of a container."""
    document = _shaped(encode(config), _CONFIG_ABSENT, _CONFIG_NULL)
    if "Healthcheck" in document:
        document["Healthcheck"] = _filled(document["Healthcheck"])
    return document


def image_config_json(config: ContainerConfig) -> dict[str, Any]:
    """The Config of an image since API 1.50: what an image can say, and only what this one says."""
    return {key: value for key, value in config_json(config).items() if key in _IMAGE_CONFIG and value}


def host_json(host: HostConfig) -> dict[str, Any]:
    """The HostConfig of a container."""
    document = _shaped(encode(host), _HOST_ABSENT, _HOST_NULL)
    if "Mounts" in document:
        document["Mounts"] = [_filled(mount) for mount in document["Mounts"]]
    masked, read_only = paths(host)
    return document | {"MaskedPaths": masked or None, "ReadonlyPaths": read_only or None} | _WINDOWS


def _shaped(document: dict[str, Any], absent: frozenset[str], null: frozenset[str]) -> dict[str, Any]:
    return {
        key: (value or None) if key in null else value
        for key, value in document.items()
        if value not in (None, "", False, (), [], {}) or key not in absent
    }


def _filled(document: dict[str, Any]) -> dict[str, Any]:
    """An object without its empty fields, at any depth."""
    inner = {key: _filled(value) if isinstance(value, dict) else value for key, value in document.items()}
    return {key: value for key, value in inner.items() if value or key == "Type"}


def endpoint_json(endpoint: EndpointSettings) -> dict[str, Any]:
    """One of NetworkSettings.Networks."""
    document = _shaped(encode(endpoint), frozenset(), frozenset({"Links", "Aliases", "DriverOpts", "DNSNames"}))
    if endpoint.ipam_config is not None:
        document["IPAMConfig"] = _filled(document["IPAMConfig"])
    return document


def mount_json(mount: MountPoint) -> dict[str, Any]:
    """One of a container's Mounts."""
    document: dict[str, Any] = {"Type": mount.type}
    if mount.name:
        document["Name"] = mount.name
    document |= {"Source": mount.source, "Destination": mount.target}
    if mount.driver:
        document["Driver"] = mount.driver
    return document | {"Mode": mount.mode, "RW": mount.writable, "Propagation": mount.propagation}


def mounts_json(record: Record) -> list[dict[str, Any]]:
    """A container's Mounts; what --tmpfs asks for stands in HostConfig.Tmpfs alone."""
    return [mount_json(mount) for mount in record.mounts if mount.type != "tmpfs" or mount.target not in record.host.tmpfs]


def ports_json(record: Record) -> dict[str, Any]:
    """NetworkSettings.Ports: each exposed port with where it is reached, null: nowhere."""
    if not record.life.pid:
        return {}
    exposed: dict[str, tuple[PortBinding, ...]] = dict.fromkeys(record.config.exposed_ports, ())
    bound = exposed | record.ports
    return {port: [encode(binding) for binding in bindings] or None for port, bindings in sorted(bound.items())}
