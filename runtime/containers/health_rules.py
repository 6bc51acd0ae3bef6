"""What probes say about a container's health: Docker's rules; must not know how a probe is run, nor the clock."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from runtime.config import ContainerConfig, Healthcheck
from runtime.containers.record import Health, HealthProbe

_S = 1_000_000_000
KEPT = 5
"""Probes that inspect shows."""
MAX_OUTPUT = 4096
"""Bytes of a probe's output that are kept."""
TIMED_OUT = -1
"""Exit code of a probe that took too long."""
STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A health check with its defaults filled in; times in seconds."""

    command: tuple[str, ...]
    interval_s: float
    timeout_s: float
    retries: int
    start_period_s: float
    start_interval_s: float

    def next_in_s(self, health: Health, uptime_s: float) -> float:
        """How long after one probe's end the next begins."""
        starting = health.status == STARTING and uptime_s < self.start_period_s
        return self.start_interval_s if starting else self.interval_s


def schedule(config: ContainerConfig) -> Schedule | None:
    """The container's health check; None: it has none."""
    check = config.healthcheck
    command = _command(check, config.shell) if check else ()
    if check is None or not command:
        return None
    return Schedule(
        command,
        interval_s=(check.interval or 30 * _S) / _S,
        timeout_s=(check.timeout or 30 * _S) / _S,
        retries=check.retries or 3,
        start_period_s=check.start_period / _S,
        start_interval_s=(check.start_interval or 5 * _S) / _S,
    )


def _command(check: Healthcheck, shell: tuple[str, ...]) -> tuple[str, ...]:
    kind, rest = (check.test[0], check.test[1:]) if check.test else ("NONE", ())
    if kind == "CMD-SHELL" and rest:
        return (*(shell or _SHELL), rest[0])
    return rest if kind == "CMD" else ()


def after(health: Health, probe: HealthProbe, plan: Schedule, uptime_s: float) -> Health:
    """The health once this probe has ended; `uptime_s`: of the container, at its end."""
    log = (*health.log, probe)[-KEPT:]
    if probe.exit_code == 0:
        return Health(status=HEALTHY, failing_streak=0, log=log)
    forgiven = health.status == STARTING and uptime_s < plan.start_period_s
    streak = health.failing_streak + (not forgiven)
    status = UNHEALTHY if streak >= plan.retries else health.status
    return msgspec.structs.replace(health, status=status, failing_streak=streak, log=log)
