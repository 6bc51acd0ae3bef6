"""Which namespaces a container has of its own, and which it shares with the host or another container; must not know networks.

Modes are Docker's: "" (its own), host, container:ID; of ipc also private, shareable and none, of cgroup private.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.config import HostConfig
from runtime.errors import InvalidParameter

HOST = "host"
_OTHER = "container:"
_MODES = {
    "IPC": ("", HOST, "private", "shareable", "none"),
    "PID": ("", HOST, "private"),
    "UTS": ("", HOST),
    "cgroup namespace": ("", HOST, "private"),
    "user namespace": ("", HOST),
}
_JOINABLE = ("IPC", "PID", "UTS")
"""UTS not in Docker: a pod's containers share their sandbox's."""


def other(mode: str) -> str:
    """Whose namespace it is in a mode container:ID, "" in all others."""
    return mode.removeprefix(_OTHER) if mode.startswith(_OTHER) else ""


def check_modes(host: HostConfig) -> None:
    """Raises InvalidParameter for a mode that is none."""
    modes = {
        "IPC": host.ipc_mode,
        "PID": host.pid_mode,
        "UTS": host.uts_mode,
        "cgroup namespace": host.cgroupns_mode,
        "user namespace": host.userns_mode,
    }
    for what, mode in modes.items():
        if mode not in _MODES[what] and not (what in _JOINABLE and other(mode)):
            raise InvalidParameter(f"invalid {what} mode: {mode}")


def namespaces(host: HostConfig, netns: str, pid_of: Callable[[str], int], cgroup_version: int) -> list[dict[str, str]]:
    """OCI's linux.namespaces; `netns`: "" for its own, host, or the path of one. Raises what `pid_of` does."""
    private_cgroup = host.cgroupns_mode == "private" or (not host.cgroupns_mode and cgroup_version == 2)
    wanted = [
        {"type": "mount"},
        *_namespace("pid", host.pid_mode, pid_of),
        *_namespace("ipc", host.ipc_mode, pid_of),
        *_namespace("uts", host.uts_mode, pid_of),
    ]
    if netns != HOST:
        wanted.append({"type": "network", "path": netns} if netns else {"type": "network"})
    return [*wanted, {"type": "cgroup"}] if private_cgroup else wanted


def _namespace(kind: str, mode: str, pid_of: Callable[[str], int]) -> list[dict[str, str]]:
    if mode == HOST:
        return []
    if container := other(mode):
        return [{"type": kind, "path": f"/proc/{pid_of(container)}/ns/{kind}"}]
    return [{"type": kind}]
