"""Capabilities, limits, signals, namespaces, security options and devices: tables of what is asked and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.config import Device, HostConfig, Ulimit
from runtime.containers.capabilities import DEFAULT, capabilities
from runtime.containers.devices import devices, parse_rule
from runtime.containers.namespaces import check_modes, namespaces
from runtime.containers.rlimits import rlimit_warnings, rlimits
from runtime.containers.security import Security, parse_security
from runtime.containers.signals import parse_signal, signal_name
from runtime.containers.sysctls import check_sysctls
from runtime.errors import InvalidParameter
from runtime.linux.clamp import CAPABILITIES, RLIMITS, Held, capabilities_of, held

ALMIGHTY = Held(frozenset(CAPABILITIES), dict.fromkeys(RLIMITS, -1), -1000)
MODEST = Held(frozenset(CAPABILITIES) - {"CAP_SYS_RESOURCE"}, {**dict.fromkeys(RLIMITS, -1), "nofile": 20_000}, 0)


@pytest.mark.parametrize(
    ("add", "drop", "granted"),
    [
        ((), (), DEFAULT),
        (("NET_ADMIN",), (), DEFAULT | {"CAP_NET_ADMIN"}),
        (("cap_net_admin",), ("ALL",), {"CAP_NET_ADMIN"}),
        ((), ("CHOWN", "CAP_KILL"), DEFAULT - {"CAP_CHOWN", "CAP_KILL"}),
        (("ALL",), ("SYS_ADMIN",), set(CAPABILITIES) - {"CAP_SYS_ADMIN"}),
        ((), ("CAP_ALL",), set()),
    ],
)
def test_capabilities_are_added_and_dropped_as_docker_does(add: tuple[str, ...], drop: tuple[str, ...], granted: set[str]) -> None:
    assert set(capabilities(HostConfig(cap_add=add, cap_drop=drop), ALMIGHTY).granted) == granted


def test_an_unknown_capability_is_refused_in_dockers_words() -> None:
    with pytest.raises(InvalidParameter, match='invalid CapAdd: unknown capability: "CAP_FLY"'):
        capabilities(HostConfig(cap_add=("fly",)), ALMIGHTY)


@pytest.mark.parametrize("host", [HostConfig(privileged=True), HostConfig(cap_add=("SYS_RESOURCE",))])
def test_what_the_engine_does_not_have_it_does_not_give_and_says_so(host: HostConfig) -> None:
    found = capabilities(host, MODEST)
    assert "CAP_SYS_RESOURCE" not in found.granted
    assert found.refused == ("CAP_SYS_RESOURCE",)
    assert capabilities(HostConfig(cap_add=("ALL",)), MODEST).refused == ()


def test_dockers_mask_is_the_defaults() -> None:
    assert capabilities_of(0xA80425FB) == DEFAULT
    assert held().capabilities <= frozenset(CAPABILITIES)


def test_limits_are_cut_to_the_engines_own() -> None:
    wanted = (Ulimit(name="nofile", soft=1024, hard=100_000), Ulimit(name="core", soft=-1, hard=-1))
    infinite = (1 << 64) - 1
    assert rlimits(wanted, MODEST) == [
        {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 20_000},
        {"type": "RLIMIT_CORE", "soft": infinite, "hard": infinite},
    ]
    assert rlimit_warnings(wanted, MODEST) == ["ulimit nofile=100000 is more than the engine itself has; 20000 it is."]
    assert rlimit_warnings(wanted, ALMIGHTY) == []


@pytest.mark.parametrize(("name", "soft", "hard"), [("nofiles", 1, 2), ("nofile", 3, 2), ("nofile", -1, 2)])
def test_limits_that_are_none_are_refused(name: str, soft: int, hard: int) -> None:
    with pytest.raises(InvalidParameter):
        rlimits((Ulimit(name=name, soft=soft, hard=hard),), ALMIGHTY)


@given(soft=st.integers(-1, 1 << 62), hard=st.integers(-1, 1 << 62), limit=st.integers(0, 1 << 62))
def test_a_soft_limit_is_never_above_its_hard_one(soft: int, hard: int, limit: int) -> None:
    engine = Held(frozenset(), {**MODEST.hard_limits, "nofile": limit}, 0)
    try:
        (given_limit,) = rlimits((Ulimit(name="nofile", soft=soft, hard=hard),), engine)
    except InvalidParameter:
        return
    assert given_limit["soft"] <= given_limit["hard"] <= limit


@pytest.mark.parametrize(
    ("text", "number"), [("SIGTERM", 15), ("term", 15), ("15", 15), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("RTMIN", 34), ("CLD", 17)]
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert parse_signal(text) == number
    assert parse_signal(signal_name(number)) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "SIGNONE", "9 ", "RTMIN+99", "RTMAX-40", "٩", "99999999999"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid signal"):
        parse_signal(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"pid_mode": "x"},
        {"ipc_mode": "container:"},
        {"uts_mode": "private"},
        {"cgroupns_mode": "container:x"},
        {"userns_mode": "1000"},
    ],
)
def test_a_mode_that_is_none_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter, match=r"invalid .* mode"):
        check_modes(HostConfig(**fields))  # type: ignore[arg-type]  # one field at a time


def test_namespaces_are_its_own_the_hosts_or_anothers() -> None:
    host = HostConfig(pid_mode="container:other", ipc_mode="host", cgroupns_mode="private")
    assert namespaces(host, "/run/netns/x", {"other": 7}.__getitem__, 1) == [
        {"type": "mount"},
        {"type": "pid", "path": "/proc/7/ns/pid"},
        {"type": "uts"},
        {"type": "network", "path": "/run/netns/x"},
        {"type": "cgroup"},
    ]
    assert {"type": "cgroup"} in namespaces(HostConfig(privileged=True), "", int, 2)
    assert {"type": "cgroup"} not in namespaces(HostConfig(), "host", int, 1)


@pytest.mark.parametrize(
    ("options", "security"),
    [
        ((), Security()),
        (("seccomp=unconfined", "no-new-privileges"), Security(seccomp="unconfined", no_new_privileges=True)),
        (("seccomp=builtin", "no-new-privileges:false"), Security()),
        (("label=disable", "label:type:x", "apparmor=p"), Security(labels=("disable", "type:x"), apparmor="p")),
        (("systempaths=unconfined", 'seccomp={"a=b": "c:d"}'), Security(seccomp='{"a=b": "c:d"}', unconfined_paths=True)),
    ],
)
def test_security_options_are_taken_apart(options: tuple[str, ...], security: Security) -> None:
    assert parse_security(options) == security


@pytest.mark.parametrize("option", ["", "x", "x=y", "no-new-privileges=maybe", "systempaths=confined"])
def test_security_options_that_are_none_are_refused(option: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid --security-opt"):
        parse_security((option,))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ("kernel.hostname", "vm.swappiness", "kernel.core_pattern", "net", "net/../kernel/core_pattern", "")),
        ({"network_mode": "host"}, ("net.ipv4.ip_forward",)),
        ({"ipc_mode": "host"}, ("kernel.msgmax", "fs.mqueue.msg_max")),
    ],
)
def test_settings_of_the_host_are_refused(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    check_sysctls(HostConfig(sysctls={"net.ipv4.conf.eth0/1.forwarding": "1", "kernel.shm_rmid_forced": "1"}))
    for name in names:
        with pytest.raises(InvalidParameter, match="sysctl"):
            check_sysctls(HostConfig(sysctls={name: "1"}, **fields))


def test_a_device_is_made_and_allowed_where_it_is_asked_for() -> None:
    found = devices(HostConfig(devices=(Device(path_on_host="/dev/null", path_in_container="/dev/x", cgroup_permissions="r"),)))
    assert [(node["path"], node["type"], node["major"], node["minor"]) for node in found.nodes] == [("/dev/x", "c", 1, 3)]
    assert found.rules == [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}]


@pytest.mark.parametrize(("path", "why"), [("/dev/none-such", "no such file or directory"), ("/etc/passwd", "not a device node")])
def test_what_is_no_device_is_refused_in_dockers_words(path: str, why: str) -> None:
    with pytest.raises(InvalidParameter, match=f'error gathering device information while adding custom device "{path}": {why}'):
        devices(HostConfig(devices=(Device(path_on_host=path),)))


def test_a_directory_is_all_devices_in_it_and_a_link_is_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    found = devices(HostConfig(devices=(Device(path_on_host=str(tmp_path / "link"), path_in_container="/dev/z"),)))
    assert [(node["path"], node["minor"]) for node in found.nodes] == [("/dev/z", 5)]
    assert devices(HostConfig(devices=(Device(path_on_host=str(tmp_path)),))).nodes == []


@pytest.mark.parametrize("text", ["", "c 1:3", "d 1:3 r", "c 1:3 rx", "c a:3 r", "c 1:3 r\n"])
def test_device_rules_have_a_strict_form(text: str) -> None:
    assert parse_rule("c 1:* rw") == {"allow": True, "type": "c", "access": "rw", "major": 1}
    with pytest.raises(InvalidParameter, match="invalid device cgroup rule format"):
        parse_rule(text)
