"""Kernel settings of a container's own namespaces; must not know how they are written."""

from __future__ import annotations

from runtime.config import ContainerConfig, HostConfig
from runtime.containers.namespaces import HOST, other
from runtime.errors import InvalidParameter

_KERNEL = "domainname msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"
_IPC = frozenset(f"kernel.{name}" for name in _KERNEL.split()) - {"kernel.domainname"}
DEFAULTS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
"""A container's ports and pings are its own affair: nobody in it needs capabilities for them."""


def check_sysctls(host: HostConfig) -> None:
    """Raises InvalidParameter for a setting that is the host's, by nature or because the container shares the host's namespace."""
    for text in host.sysctls:
        name = text.replace("/", ".")
        if ".." in name or not (name in _IPC or name.startswith(("fs.mqueue.", "net.")) or name == "kernel.domainname"):
            raise InvalidParameter(f"sysctl '{text}' is not allowed: it is not one of a namespace")
        if name.startswith("net.") and host.network_mode == HOST:
            raise InvalidParameter(f"sysctl '{text}' is not allowed in host network namespace")
        if (name in _IPC or name.startswith("fs.mqueue.")) and host.ipc_mode == HOST:
            raise InvalidParameter(f"sysctl '{text}' is not allowed in host IPC namespace")


def sysctls(config: ContainerConfig, host: HostConfig, netns: str) -> dict[str, str]:
    """OCI's linux.sysctl; what is set in another container's network namespace is that one's."""
    wanted = dict(DEFAULTS) if netns != HOST and not other(host.network_mode) else {}
    if config.domainname and not host.uts_mode:
        wanted["kernel.domainname"] = config.domainname
    return {**wanted, **host.sysctls}
