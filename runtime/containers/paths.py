"""What of /proc and /sys a container must not see or change; must not know how it is hidden."""

from __future__ import annotations

from functools import cache
from glob import glob

from runtime.config import HostConfig

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""They set the host's machine, not the container's."""
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
"""They tell of the host, or of its keys."""


@cache
def masked_paths() -> tuple[str, ...]:
    """Docker's defaults for this machine."""
    return (*_MASKED, *sorted(glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")))


def paths(host: HostConfig) -> tuple[list[str], list[str]]:
    """Masked and read-only paths of a container; a privileged one has none."""
    if host.privileged:
        return [], []
    masked = masked_paths() if host.masked_paths is None else host.masked_paths
    return list(masked), list(READ_ONLY if host.readonly_paths is None else host.readonly_paths)
