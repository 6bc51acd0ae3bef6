"""Host settings as they are kept: what a request leaves open takes the value that inspect shows; must not know what they do."""

from __future__ import annotations

import msgspec

from runtime.config import HostConfig
from runtime.linux.controllers import Controllers, controllers

SHM_BYTES = 64 << 20
SHARES = (2, 262_144)
"""Least and most CPU shares the kernel takes."""


def settle(host: HostConfig, offered: Controllers | None = None) -> HostConfig:
    """The same settings with Docker's defaults in them; a second time nothing changes."""
    offered = offered or controllers()
    swap = host.memory_swap
    if host.memory > 0 and swap == 0 and offered.swap:
        swap = 2 * host.memory
    return msgspec.structs.replace(
        host,
        memory_swap=swap,
        memory_swappiness=None if host.memory_swappiness == -1 else host.memory_swappiness,
        cpu_shares=min(max(host.cpu_shares, SHARES[0]), SHARES[1]) if host.cpu_shares > 0 else host.cpu_shares,
        oom_kill_disable=host.oom_kill_disable or False,
        pids_limit=None if host.pids_limit in (0, -1) else host.pids_limit,
        shm_size=host.shm_size or SHM_BYTES,
        ipc_mode=host.ipc_mode or "private",
        cgroupns_mode=host.cgroupns_mode or ("private" if offered.version == 2 else "host"),
        network_mode="bridge" if host.network_mode in ("", "default") else host.network_mode,
        runtime=host.runtime or "runc",
    )
