"""What `docker update` makes of a container's limits: the present ones and those asked for; must not know how they are set."""

from __future__ import annotations

import msgspec

from runtime.config import HostConfig, Resources, RestartPolicy
from runtime.containers.restart import check_policy
from runtime.errors import Conflict, InvalidParameter

_FIXED = ("devices", "device_cgroup_rules", "device_requests", "cgroup_parent", "ulimits")
"""What a client sends along and what does not change in a container's life."""


def updated(host: HostConfig, asked: Resources, policy: RestartPolicy | None) -> HostConfig:
    """The container's settings after the update; raises Conflict, InvalidParameter, in Docker's words."""
    _check_conflicts(host, asked)
    default = Resources()
    names = [name for name in Resources.__struct_fields__ if name not in _FIXED]
    changes = {name: getattr(asked, name) for name in names if getattr(asked, name) != getattr(default, name)}
    if asked.unified:
        changes["unified"] = {**host.unified, **asked.unified}
    memory, swap = asked.memory or host.memory, asked.memory_swap or host.memory_swap
    if asked.memory and swap > 0 and memory > swap:
        raise Conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
    if policy is not None:
        if host.auto_remove and policy.name not in ("", "no"):
            raise InvalidParameter("Restart policy cannot be updated because AutoRemove is enabled for the container")
        check_policy(policy, host)
        changes["restart_policy"] = policy
    return msgspec.structs.replace(host, **changes)


def _check_conflicts(host: HostConfig, asked: Resources) -> None:
    conflicts = (
        (asked.cpu_period and host.nano_cpus, "CPU Period cannot be updated as NanoCPUs has already been set"),
        (asked.cpu_quota and host.nano_cpus, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        (asked.nano_cpus and host.cpu_quota, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        (asked.nano_cpus and host.cpu_period, "Nano CPUs cannot be updated as CPU Period has already been set"),
    )
    for present, what in conflicts:
        if present:
            raise Conflict(f"Conflicting options: {what}")
