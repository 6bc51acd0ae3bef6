"""System call filters: Docker's default, and profiles in Docker's format."""

from __future__ import annotations

import json

import pytest

from runtime.containers import seccomp_profile
from runtime.containers.capabilities import DEFAULT
from runtime.containers.seccomp import ALLOW, default_seccomp, parse_profile
from runtime.errors import InvalidParameter


def allowed(filter_: dict[str, object]) -> set[str]:
    rules = filter_["syscalls"]
    assert isinstance(rules, list)
    return {name for rule in rules if rule["action"] == ALLOW and not rule.get("args") for name in rule["names"]}


def test_no_name_is_listed_twice() -> None:
    assert len(seccomp_profile.ALWAYS) == len(set(seccomp_profile.ALWAYS))


def test_a_default_container_reaches_neither_keyrings_nor_mounts_nor_the_kernels_insides() -> None:
    names = allowed(default_seccomp(DEFAULT, "x86_64"))
    assert names.isdisjoint(
        ("keyctl", "add_key", "request_key", "mount", "umount2", "bpf", "unshare", "setns", "init_module", "kexec_load")
    )
    assert names.isdisjoint(
        ("io_uring_setup", "userfaultfd", "perf_event_open", "open_by_handle_at", "reboot", "swapon", "pivot_root")
    )
    assert names.isdisjoint(("clone", "clone3", "socket", "personality"))
    assert {"chroot", "execve", "openat2", "arch_prctl"} <= names


def test_clone3_does_not_exist_so_that_libcs_take_clone_whose_flags_are_seen() -> None:
    rules = default_seccomp(DEFAULT)["syscalls"]
    assert {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38} in rules
    clone = next(rule for rule in rules if rule["names"] == ["clone"])
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ"}]


def test_capabilities_bring_their_calls_along() -> None:
    admin = default_seccomp({*DEFAULT, "CAP_SYS_ADMIN"})
    assert {"mount", "clone", "clone3", "unshare"} <= allowed(admin)
    assert ["clone3"] not in [rule["names"] for rule in admin["syscalls"]]
    assert "chroot" not in allowed(default_seccomp(()))
    assert "ptrace" in allowed(default_seccomp(()))


def test_foreign_architectures_are_named_so_that_their_calls_are_filtered_too() -> None:
    assert default_seccomp((), "x86_64")["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert default_seccomp((), "aarch64")["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert "set_tls" in allowed(default_seccomp((), "aarch64"))


CONDITIONAL = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["read"], "action": ALLOW, "args": [], "comment": "", "includes": {}, "excludes": {}},
        {"names": ["mount"], "action": ALLOW, "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["umount"], "action": ALLOW, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["modify_ldt"], "action": ALLOW, "includes": {"arches": ["amd64"]}},
        {"names": ["set_tls"], "action": ALLOW, "includes": {"arches": ["arm64"]}},
        {"names": ["ptrace"], "action": ALLOW, "includes": {"minKernel": "4.8"}},
        {"names": ["from_the_future"], "action": ALLOW, "includes": {"minKernel": "999.0"}},
        {"name": "old", "action": "SCMP_ACT_TRAP"},
        {"names": ["socket"], "action": ALLOW, "args": [{"index": 0, "value": 40, "valueTwo": 2, "op": "SCMP_CMP_NE"}]},
    ],
}


def test_a_profiles_conditions_are_decided() -> None:
    made = parse_profile(json.dumps(CONDITIONAL), ("CAP_SYS_ADMIN",), "x86_64")
    assert [rule["names"] for rule in made["syscalls"]] == [["read"], ["mount"], ["modify_ldt"], ["ptrace"], ["old"], ["socket"]]
    assert made["syscalls"][-1]["args"] == [{"index": 0, "op": "SCMP_CMP_NE", "value": 40, "valueTwo": 2}]
    assert (made["architectures"], made["defaultErrnoRet"]) == (["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], 1)
    without = parse_profile(json.dumps(CONDITIONAL), (), "x86_64")
    assert "umount" in allowed(without)
    assert "mount" not in allowed(without)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"defaultAction": 1}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["a"], "archMap": [{"architecture": "b"}]}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "x", "includes": {"minKernel": "new"}}]}',
    ],
)
def test_what_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_profile(text, ())
