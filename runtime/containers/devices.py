"""Device nodes of a container, and which of them its control group lets it use; must not know how either is enforced."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.config import Device, HostConfig
from runtime.errors import InvalidParameter

HOST_DEVICES = Path("/dev")
_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
_ACCESS = re.compile(r"[rwm]{1,3}")
_NOT_OF_THE_HOST = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "core", "log", "ptmx"})
"""Names in /dev that a container has of its own, or that are no devices."""


@dataclass(frozen=True, slots=True)
class Devices:
    """OCI's linux.devices and linux.resources.devices."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)


def devices(host: HostConfig) -> Devices:
    """What a container sees in /dev beyond the standard nodes, which every runtime makes; raises InvalidParameter."""
    if host.privileged:
        nodes = [_node(path, str(path)) for path in _tree(HOST_DEVICES)]
        mapped = [node for device in host.devices for node, _ in _mapped(device)]
        return Devices(list({node["path"]: node for node in nodes + mapped}.values()), [{"allow": True, "access": "rwm"}])
    found = {node["path"]: (node, access) for device in host.devices for node, access in _mapped(device)}
    rules = [_rule(node, access) for node, access in found.values()]
    rules += [parse_rule(text) for text in host.device_cgroup_rules]
    return Devices([node for node, _ in found.values()], [{"allow": False, "access": "rwm"}, *rules])


def parse_rule(text: str) -> dict[str, Any]:
    """One --device-cgroup-rule, "c 1:3 mr"; raises InvalidParameter."""
    match = _RULE.fullmatch(text)
    if not match:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    numbers = {name: int(number) for name, number in (("major", match[2]), ("minor", match[3])) if number != "*"}
    return {"allow": True, "type": match[1], "access": match[4], **numbers}


def check_access(device: Device) -> None:
    """Raises InvalidParameter for permissions other than r, w and m."""
    if not _ACCESS.fullmatch(device.cgroup_permissions or "rwm"):
        raise InvalidParameter(f"invalid device mode: {device.cgroup_permissions}")


def _mapped(device: Device) -> Iterator[tuple[dict[str, Any], str]]:
    """The nodes of one --device: it, or all those in it where it is a directory."""
    check_access(device)
    source, access = Path(os.path.realpath(device.path_on_host)), device.cgroup_permissions or "rwm"
    target = Path(device.path_in_container or device.path_on_host)
    failed = f'error gathering device information while adding custom device "{device.path_on_host}"'
    if not source.exists():
        raise InvalidParameter(f"{failed}: no such file or directory")
    if source.is_dir():
        yield from ((_node(path, str(target / path.relative_to(source))), access) for path in _tree(source))
    elif _is_device(source):
        yield _node(source, str(target)), access
    else:
        raise InvalidParameter(f"{failed}: not a device node")


def _tree(directory: Path) -> Iterator[Path]:
    """The device nodes below a directory; what is gone or unreadable meanwhile is passed over."""
    for folder, folders, files in os.walk(directory):
        at_top = directory == HOST_DEVICES == Path(folder)
        hidden = _NOT_OF_THE_HOST if at_top else frozenset()
        folders[:] = sorted(name for name in folders if name not in hidden)
        yield from (path for name in sorted(files) if name not in hidden and _is_device(path := Path(folder, name)))


def _is_device(path: Path) -> bool:
    try:
        return stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFCHR, stat.S_IFBLK)
    except OSError:
        return False


def _node(path: Path, target: str) -> dict[str, Any]:
    status = path.stat()
    return {
        "path": target,
        "type": "b" if stat.S_ISBLK(status.st_mode) else "c",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def _rule(node: dict[str, Any], access: str) -> dict[str, Any]:
    return {"allow": True, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access}
