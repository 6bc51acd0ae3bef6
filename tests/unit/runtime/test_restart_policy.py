import pytest

from runtime.config import HostConfig, RestartPolicy
from runtime.containers.record import Life, State
from runtime.containers.restart import check_policy, delay_s, restarts, restarts_with_engine
from runtime.errors import InvalidParameter


@pytest.mark.parametrize(
    ("name", "code", "stopped", "again"),
    [
        ("", 1, False, False),
        ("no", 1, False, False),
        ("always", 0, False, True),
        ("always", 0, True, False),
        ("unless-stopped", 0, False, True),
        ("unless-stopped", 1, True, False),
        ("on-failure", 0, False, False),
        ("on-failure", 1, False, True),
        ("on-failure", 137, True, False),
    ],
)
def test_policies_at_a_containers_end(name: str, code: int, stopped: bool, again: bool) -> None:
    life = Life(state=State.RUNNING, exit_code=code, manually_stopped=stopped)
    assert restarts(RestartPolicy(name=name), life) is again


def test_on_failure_gives_up_after_as_many_tries_as_were_asked_for() -> None:
    policy = RestartPolicy(name="on-failure", maximum_retry_count=3)
    assert restarts(policy, Life(exit_code=1, restart_count=2))
    assert not restarts(policy, Life(exit_code=1, restart_count=3))


@pytest.mark.parametrize(
    ("name", "stopped", "again"),
    [("always", True, True), ("unless-stopped", True, False), ("unless-stopped", False, True), ("no", False, False)],
)
def test_at_the_engines_start_always_forgives_a_manual_stop(name: str, stopped: bool, again: bool) -> None:
    life = Life(state=State.EXITED, exit_code=255, manually_stopped=stopped)
    assert restarts_with_engine(RestartPolicy(name=name), life) is again


def test_what_never_ran_does_not_start_with_the_engine() -> None:
    assert not restarts_with_engine(RestartPolicy(name="always"), Life(state=State.CREATED))


def test_delays_double_to_a_minute_and_begin_again_after_a_steady_run() -> None:
    delays = [0.0]
    for _ in range(12):
        delays.append(delay_s(delays[-1], uptime_s=1))
    assert delays[1:4] == [0.1, 0.2, 0.4]
    assert delays[-1] == 60
    assert delay_s(60, uptime_s=10) == 0.1


@pytest.mark.parametrize(
    "policy",
    [
        RestartPolicy(name="sometimes"),
        RestartPolicy(name="always", maximum_retry_count=1),
        RestartPolicy(name="on-failure", maximum_retry_count=-1),
    ],
)
def test_nonsense_policies_are_refused(policy: RestartPolicy) -> None:
    with pytest.raises(InvalidParameter, match="invalid restart policy"):
        check_policy(policy, HostConfig())


def test_a_container_that_removes_itself_is_not_restarted() -> None:
    with pytest.raises(InvalidParameter, match="AutoRemove"):
        check_policy(RestartPolicy(name="always"), HostConfig(auto_remove=True))
