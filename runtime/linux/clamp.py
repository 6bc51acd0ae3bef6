"""What this process holds itself, and so can hand on: capabilities(7), getrlimit(2), proc_pid_oom_score_adj(5).

An engine need not be an almighty root: in a container it lacks capabilities, and its hard limits cannot be raised. What a container
asks for is cut to this instead of failing. Must not know what a container is.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP "
    "CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER "
    "CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE "
    "CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP "
    "CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF "
    "CAP_CHECKPOINT_RESTORE"
)
CAPABILITIES = tuple(_CAPABILITIES.split())
"""By number (linux/capability.h)."""
RLIMITS = {
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": 10,  # RLIMIT_LOCKS: nothing since Linux 2.4.25, but ulimit knows it
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}
"""Names of ulimits (getrlimit(2))."""
UNLIMITED = resource.RLIM_INFINITY
"""-1."""


@dataclass(frozen=True, slots=True)
class Held:
    """What can be handed on to a child."""

    capabilities: frozenset[str]
    hard_limits: Mapping[str, int]
    """By the name of the ulimit, what a child's can be raised to; -1: anything."""
    oom_score_floor: int
    """Lower nobody's oom_score_adj can be set."""

    def limit(self, name: str, wanted: int) -> int:
        """What a child can have of a resource; -1: without limit."""
        hard = self.hard_limits[name]
        if hard == UNLIMITED:
            return wanted
        return hard if wanted == UNLIMITED else min(wanted, hard)


@cache
def held() -> Held:
    """What this process holds; read once: it does not change while an engine runs."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    capabilities = capabilities_of(int(status["CapBnd"], 16) & int(status["CapPrm"], 16))
    if "CAP_SYS_RESOURCE" in capabilities:
        # There is one limit that nobody may raise beyond (proc_sys_fs(5)).
        files = int(Path("/proc/sys/fs/nr_open").read_text())
        return Held(capabilities, dict.fromkeys(RLIMITS, UNLIMITED) | {"nofile": files}, -1000)
    limits = {name: resource.getrlimit(number)[1] for name, number in RLIMITS.items()}
    # What was lowered with CAP_SYS_RESOURCE alone can be undone without it: our own score is the lowest that is sure to be had.
    return Held(capabilities, limits, int(Path("/proc/self/oom_score_adj").read_text()))


def capabilities_of(mask: int) -> frozenset[str]:
    """The names of a set as the kernel shows it; numbers newer than our table are left out."""
    return frozenset(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)
