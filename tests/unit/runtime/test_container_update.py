import pytest

from runtime.config import HostConfig, Resources, RestartPolicy
from runtime.containers.update import updated
from runtime.errors import Conflict, EngineError, InvalidParameter

MIB = 1 << 20


def test_only_what_is_asked_for_changes() -> None:
    host = HostConfig(memory=64 * MIB, memory_swap=128 * MIB, cpu_shares=512, privileged=True)
    changed = updated(host, Resources(memory=32 * MIB, cgroup_parent="x"), None)
    assert changed == HostConfig(memory=32 * MIB, memory_swap=128 * MIB, cpu_shares=512, privileged=True)


def test_files_of_control_groups_are_changed_one_by_one() -> None:
    host = HostConfig(unified={"memory.oom.group": "1", "memory.high": "1"})
    assert updated(host, Resources(unified={"memory.high": "2"}), None).unified == {"memory.oom.group": "1", "memory.high": "2"}


def test_a_restart_policy_comes_alone_too() -> None:
    policy = RestartPolicy(name="on-failure", maximum_retry_count=2)
    assert updated(HostConfig(), Resources(), policy).restart_policy == policy


@pytest.mark.parametrize(
    ("host", "asked", "error", "why"),
    [
        (HostConfig(nano_cpus=1), Resources(cpu_quota=1), Conflict, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        (HostConfig(cpu_period=1), Resources(nano_cpus=1), Conflict, "Nano CPUs cannot be updated as CPU Period has already"),
        (HostConfig(memory_swap=8 * MIB), Resources(memory=16 * MIB), Conflict, "smaller than already set memoryswap limit"),
    ],
)
def test_what_cannot_go_together_is_refused(host: HostConfig, asked: Resources, error: type[EngineError], why: str) -> None:
    with pytest.raises(error, match=why):
        updated(host, asked, None)


def test_one_that_removes_itself_gets_no_restart_policy() -> None:
    with pytest.raises(InvalidParameter, match="AutoRemove is enabled"):
        updated(HostConfig(auto_remove=True), Resources(), RestartPolicy(name="always"))
