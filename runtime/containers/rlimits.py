"""Resource limits of a container's processes, cut to what the engine can give; must not know what reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runtime.config import Ulimit
from runtime.errors import InvalidParameter
from runtime.linux.clamp import RLIMITS, UNLIMITED, Held


def rlimits(ulimits: Iterable[Ulimit], held: Held) -> list[dict[str, Any]]:
    """OCI's process.rlimits; raises InvalidParameter for a name that is none, and for a soft limit above the hard one."""
    return [
        {"type": f"RLIMIT_{name.upper()}", "soft": _kernel(soft), "hard": _kernel(hard)}
        for name, (soft, hard) in _given(ulimits, held).items()
    ]


def rlimit_warnings(ulimits: Iterable[Ulimit], held: Held) -> list[str]:
    """What of the limits cannot be given; raises as `rlimits` does."""
    wanted = {ulimit.name: ulimit for ulimit in ulimits}
    return [
        f"ulimit {name}={wanted[name].hard} is more than the engine itself has; {hard} it is."
        for name, (_, hard) in _given(wanted.values(), held).items()
        if hard != wanted[name].hard
    ]


def _given(ulimits: Iterable[Ulimit], held: Held) -> dict[str, tuple[int, int]]:
    """Soft and hard by name: one limit a name, the last one counts, as runtimes refuse two."""
    given = {}
    for ulimit in ulimits:
        if ulimit.name not in RLIMITS:
            raise InvalidParameter(f"invalid ulimit type: {ulimit.name}")
        if _kernel(ulimit.soft) > _kernel(ulimit.hard):
            raise InvalidParameter(f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}")
        hard = held.limit(ulimit.name, ulimit.hard)
        soft = ulimit.soft if _kernel(ulimit.soft) <= _kernel(hard) else hard
        given[ulimit.name] = (soft, hard)
    return given


def _kernel(limit: int) -> int:
    """As the kernel counts: no limit is the largest number."""
    return (1 << 64) - 1 if limit == UNLIMITED else limit
