"""A container's limits between CRI's terms and the engine's; must not know who enforces them."""

from __future__ import annotations

from cri_api.v1 import api_pb2 as cri

from flanneld.log import Log
from runtime.config import HostConfig, Resources

log = Log(__name__)


def limits(asked: cri.LinuxContainerResources) -> Resources:
    """What is limited; swap is none beyond the memory unless it is asked for, as with other runtimes."""
    if any(page.limit for page in asked.hugepage_limits):
        log.warning("limits not set", hugepages=len(asked.hugepage_limits))
    return Resources(
        cpu_period=asked.cpu_period,
        cpu_quota=asked.cpu_quota,
        cpu_shares=asked.cpu_shares,
        cpuset_cpus=asked.cpuset_cpus,
        cpuset_mems=asked.cpuset_mems,
        memory=asked.memory_limit_in_bytes,
        memory_swap=asked.memory_swap_limit_in_bytes or asked.memory_limit_in_bytes,
        unified=dict(asked.unified),
    )


def limits_told(host: HostConfig) -> cri.ContainerResources:
    """What limits a container has."""
    told = cri.LinuxContainerResources(
        cpu_period=host.cpu_period,
        cpu_quota=host.cpu_quota,
        cpu_shares=host.cpu_shares,
        cpuset_cpus=host.cpuset_cpus,
        cpuset_mems=host.cpuset_mems,
        memory_limit_in_bytes=host.memory,
        memory_swap_limit_in_bytes=max(host.memory_swap, 0),
        oom_score_adj=host.oom_score_adj,
        unified=host.unified,
    )
    return cri.ContainerResources(linux=told)
