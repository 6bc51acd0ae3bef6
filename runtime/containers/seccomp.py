"""A container's system call filter as OCI's linux.seccomp: Docker's default, or a profile in Docker's own JSON.

Must not know who loads it. A rule that depends on something (capabilities, architecture, kernel) is decided here: what is handed
on holds as it is.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import field

from runtime.containers import seccomp_profile as profile
from runtime.errors import InvalidParameter
from runtime.linux.release import kernel_version, parse_version

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "riscv64": ("SCMP_ARCH_RISCV64",),
}
"""By `os.uname().machine`: the kernel's, and those it runs besides. A call from any other one kills the caller.

Docker has x32 as well, which hardly a kernel is built with: to compile the filter for it would add 10 ms to each start.
"""
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}


class _Condition(msgspec.Struct, rename="camel"):
    caps: list[str] = []
    arches: list[str] = []
    min_kernel: str = ""


class _Argument(msgspec.Struct, rename="camel", omit_defaults=True):
    index: int
    op: str
    value: int = 0
    value_two: int = 0


class _Rule(msgspec.Struct, rename="camel"):
    action: str
    name: str = ""
    names: list[str] = []
    errno_ret: int | None = None
    args: list[_Argument] | None = None
    includes: _Condition | None = None
    excludes: _Condition | None = None


class _Architecture(msgspec.Struct, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_Architecture] | None = field(default=None)
    flags: list[str] | None = None
    syscalls: list[_Rule] | None = None


def default_seccomp(capabilities: Collection[str], machine: str = "") -> dict[str, Any]:
    """The filter of a container with these capabilities; not to be changed: it is the same one each time."""
    return _default(frozenset(capabilities), machine or os.uname().machine)


@lru_cache(maxsize=64)
def _default(capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    names = {*profile.ALWAYS, *profile.BY_ARCHITECTURE.get(machine, ())}
    for capability, calls in profile.BY_CAPABILITY.items():
        names.update(calls if capability in capabilities else ())
    rules = [{"names": sorted(names), "action": ALLOW}, _when("socket", 0, profile.AF_VSOCK, "SCMP_CMP_NE")]
    rules += [_when("personality", 0, value, "SCMP_CMP_EQ") for value in profile.PERSONALITIES]
    if "CAP_SYS_ADMIN" not in capabilities:
        rules.append(_when("clone", 0, profile.NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ"))
        # Its flags are in memory, out of a filter's sight; told that there is no such call, libcs take clone instead.
        rules.append({"names": ["clone3"], "action": ERRNO, "errnoRet": profile.ENOSYS})
    return {
        "defaultAction": ERRNO,
        "defaultErrnoRet": profile.EPERM,
        "architectures": list(ARCHITECTURES.get(machine, ())),
        "syscalls": rules,
    }


def _when(name: str, index: int, value: int, operator: str) -> dict[str, Any]:
    return {"names": [name], "action": ALLOW, "args": [{"index": index, "value": value, "op": operator}]}


def parse_profile(text: str, capabilities: Collection[str], machine: str = "") -> dict[str, Any]:
    """The filter that a profile in Docker's format makes for a container with these capabilities; raises InvalidParameter."""
    try:
        given = msgspec.json.decode(text, type=_Profile)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
    if given.architectures and given.arch_map:
        raise InvalidParameter(
            "both 'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or 'archMap'"
        )
    machine = machine or os.uname().machine
    kept = [rule for rule in given.syscalls or () if _applies(rule, capabilities, _GO_NAMES.get(machine, machine))]
    made: dict[str, Any] = {"defaultAction": given.default_action, "syscalls": [_rule(rule) for rule in kept]}
    if given.default_errno_ret is not None:
        made["defaultErrnoRet"] = given.default_errno_ret
    if architectures := given.architectures or _mapped(given.arch_map or [], machine):
        made["architectures"] = architectures
    return made | ({"flags": given.flags} if given.flags else {})


def _mapped(known: list[_Architecture], machine: str) -> list[str]:
    native = ARCHITECTURES.get(machine, ("",))[0]
    for entry in known:
        if entry.architecture == native:
            return [native, *(entry.sub_architectures or ())]
    return []


def _rule(rule: _Rule) -> dict[str, Any]:
    if bool(rule.name) == bool(rule.names):
        raise InvalidParameter("'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'")
    made: dict[str, Any] = {"names": rule.names or [rule.name], "action": rule.action}
    if rule.errno_ret is not None:
        made["errnoRet"] = rule.errno_ret
    return made | ({"args": msgspec.to_builtins(rule.args)} if rule.args else {})


def _applies(rule: _Rule, capabilities: Collection[str], architecture: str) -> bool:
    """All that it includes is so, and nothing that it excludes."""
    wanted, unwanted = rule.includes or _Condition(), rule.excludes or _Condition()
    if wanted.arches and architecture not in wanted.arches:
        return False
    if wanted.min_kernel and not _is_at_least(wanted.min_kernel):
        return False
    if not all(capability in capabilities for capability in wanted.caps):
        return False
    excluded = architecture in unwanted.arches or any(capability in capabilities for capability in unwanted.caps)
    return not (excluded or (unwanted.min_kernel and _is_at_least(unwanted.min_kernel)))


def _is_at_least(text: str) -> bool:
    version = parse_version(text)
    if version is None:
        raise InvalidParameter(f"invalid kernel version in the seccomp profile: {text!r}")
    return kernel_version() >= version
