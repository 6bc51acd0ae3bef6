import pytest

from runtime.config import ContainerConfig, Healthcheck
from runtime.containers.health_rules import HEALTHY, KEPT, STARTING, UNHEALTHY, Schedule, after, schedule
from runtime.containers.record import Health, HealthProbe

PLAN = Schedule(("true",), interval_s=30, timeout_s=30, retries=3, start_period_s=60, start_interval_s=5)


def probe(code: int) -> HealthProbe:
    return HealthProbe(start="", end="", exit_code=code, output="")


def health_after(*codes: int, status: str = STARTING, uptime_s: float = 100) -> Health:
    health = Health(status=status)
    for code in codes:
        health = after(health, probe(code), PLAN, uptime_s)
    return health


@pytest.mark.parametrize(
    ("test", "shell", "command"),
    [
        (("CMD", "curl", "x"), (), ("curl", "x")),
        (("CMD-SHELL", "exit 1"), (), ("/bin/sh", "-c", "exit 1")),
        (("CMD-SHELL", "exit 1"), ("/bin/bash", "-ec"), ("/bin/bash", "-ec", "exit 1")),
    ],
)
def test_the_command_is_run_as_it_is_or_by_the_images_shell(
    test: tuple[str, ...], shell: tuple[str, ...], command: tuple[str, ...]
) -> None:
    plan = schedule(ContainerConfig(healthcheck=Healthcheck(test=test), shell=shell))
    assert plan == Schedule(command, 30, 30, 3, 0, 5)


@pytest.mark.parametrize("check", [None, Healthcheck(), Healthcheck(test=("NONE",)), Healthcheck(test=("CMD",))])
def test_without_a_command_there_is_no_check(check: Healthcheck | None) -> None:
    assert schedule(ContainerConfig(healthcheck=check)) is None


def test_one_success_makes_it_healthy_and_only_retries_failures_in_a_row_unhealthy() -> None:
    assert health_after(0).status == HEALTHY
    assert health_after(0, 1, 1).status == HEALTHY
    assert health_after(0, 1, 1, 0, 1).failing_streak == 1
    assert health_after(0, 1, 1, -1).status == UNHEALTHY


def test_failures_within_the_start_period_do_not_count_until_it_has_been_healthy() -> None:
    assert health_after(*[1] * 9, uptime_s=59) == Health(status=STARTING, log=(probe(1),) * KEPT)
    assert health_after(0, 1, 1, 1, uptime_s=59).status == UNHEALTHY


def test_probes_come_faster_while_it_starts() -> None:
    assert PLAN.next_in_s(Health(status=STARTING), uptime_s=10) == 5
    assert PLAN.next_in_s(Health(status=STARTING), uptime_s=60) == 30
    assert PLAN.next_in_s(Health(status=HEALTHY), uptime_s=10) == 30
