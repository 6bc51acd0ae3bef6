"""Whether and when a container that ended is started again: Docker's restart policies; must not know a clock or a process."""

from __future__ import annotations

from runtime.config import HostConfig, RestartPolicy
from runtime.containers.record import Life, State
from runtime.errors import InvalidParameter

FIRST_S = 0.1
"""Delay before the first restart; doubled at each one."""
CAP_S = 60.0
STEADY_S = 10.0
"""Who ran that long begins again with the first delay."""

NAMES = ("", "no", "always", "unless-stopped", "on-failure")


def check_policy(policy: RestartPolicy, host: HostConfig) -> None:
    """The policy can be had; raises InvalidParameter in Docker's words."""
    if policy.name not in NAMES:
        raise InvalidParameter(f"invalid restart policy: unknown policy '{policy.name}'; use one of {', '.join(NAMES[1:])}")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if policy.maximum_retry_count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def restarts(policy: RestartPolicy, life: Life) -> bool:
    """Whether a container that has just ended so is started again."""
    if life.manually_stopped:
        return False
    if policy.name == "on-failure":
        limit = policy.maximum_retry_count
        return life.exit_code != 0 and (limit == 0 or life.restart_count < limit)
    return policy.name in ("always", "unless-stopped")


def restarts_with_engine(policy: RestartPolicy, life: Life) -> bool:
    """Whether one that does not run at the engine's start is started then: `always` forgives a manual stop."""
    if life.state is not State.EXITED:
        return False
    if policy.name == "always":
        return True
    return restarts(policy, life)


def delay_s(previous_s: float, uptime_s: float) -> float:
    """Seconds to wait before this restart; `previous_s` is what the one before waited, 0: there was none."""
    if previous_s <= 0 or uptime_s >= STEADY_S:
        return FIRST_S
    return min(2 * previous_s, CAP_S)
