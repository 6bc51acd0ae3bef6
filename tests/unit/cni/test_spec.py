"""CNI spec 1.1.0 section 2: the environment, versions, errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import (
    NEWEST,
    OLDEST,
    VERSIONS,
    Call,
    CniError,
    Code,
    Command,
    at_least,
    check_version,
    error_answer,
    parse_call,
    version_answer,
)
from cni_refusals import code_of

ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c-1",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "K8S_POD_NAME=web;IP=10.1.2.3;EMPTY=;X=a=b",
    "CNI_PATH": "/opt/cni/bin::/usr/lib/cni",
}


def refused(environ: dict[str, str]) -> str:
    with pytest.raises(CniError) as error:
        parse_call(environ)
    assert error.value.code == Code.ENVIRONMENT
    return error.value.message


def test_a_call_is_what_the_environment_says() -> None:
    args = {"K8S_POD_NAME": "web", "IP": "10.1.2.3", "EMPTY": "", "X": "a=b"}
    assert parse_call(ADD) == Call(Command.ADD, "c-1", "/run/netns/pod", "eth0", args, ("/opt/cni/bin", "/usr/lib/cni"))


def test_all_missing_variables_are_named_at_once() -> None:
    assert refused({"CNI_COMMAND": "ADD"}) == "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing"
    assert refused({"CNI_COMMAND": "DEL"}) == "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing"


def test_del_needs_no_namespace() -> None:
    for netns in ({}, {"CNI_NETNS": ""}):
        assert parse_call({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", **netns}).netns == ""


@pytest.mark.parametrize("command", ["GC", "STATUS", "VERSION"])
def test_some_commands_need_nothing_else(command: str) -> None:
    assert parse_call({"CNI_COMMAND": command}).command == command


@pytest.mark.parametrize("command", ["", "add", "ADD ", "UPDATE"])
def test_an_unknown_command_is_told_what_there_is(command: str) -> None:
    assert refused(ADD | {"CNI_COMMAND": command}) == (
        f"CNI_COMMAND: got {command!r}, expected one of ADD, DEL, CHECK, GC, STATUS, VERSION"
    )


@pytest.mark.parametrize("value", ["-c", ".c", "c/1", "c 1", "c\n", "ü", "../../etc/passwd"])
def test_a_container_id_cannot_be_a_path_or_worse(value: str) -> None:
    assert refused(ADD | {"CNI_CONTAINERID": value}).startswith(f"CNI_CONTAINERID: got {value!r}, expected")


@pytest.mark.parametrize("value", [".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-letters-", "üüüüüüüü", "a\N{NO-BREAK SPACE}b"])
def test_an_interface_is_named_as_linux_wants(value: str) -> None:
    assert refused(ADD | {"CNI_IFNAME": value}).startswith(f"CNI_IFNAME: got {value!r}, expected")


def test_fifteen_bytes_are_an_interfaces_name_unless_no_result_could_name_it() -> None:
    assert parse_call(ADD | {"CNI_IFNAME": "üeth0123456789"}).ifname == "üeth0123456789"
    name = b"\xff\xfeeth".decode(errors="surrogateescape") + "0123456789"
    assert refused(ADD | {"CNI_IFNAME": name}).endswith("expected UTF-8")


@pytest.mark.parametrize("value", ["IP", "=x", "IP=1;", ";", "IP=1;;X=2"])
def test_arguments_are_pairs(value: str) -> None:
    assert refused(ADD | {"CNI_ARGS": value}).endswith("expected KEY=VALUE pairs with ';' between")


def test_the_hosts_own_namespace_is_meant_only_when_it_is_said() -> None:
    said = {value: parse_call(ADD | {"CNI_NETNS_OVERRIDE": value}).netns_override for value in ("1", "TRUE", "true", "0", "yes")}
    assert said == {"1": True, "TRUE": True, "true": True, "0": False, "yes": False}


@given(st.dictionaries(st.sampled_from([*ADD, "CNI_NETNS_OVERRIDE"]), st.text()))
def test_any_environment_is_a_call_or_an_error_of_code_4(environ: dict[str, str]) -> None:
    assert code_of(lambda: parse_call(ADD | environ)) in (None, Code.ENVIRONMENT)


@pytest.mark.parametrize(("command", "first"), [(Command.CHECK, "0.4.0"), (Command.GC, "1.1.0"), (Command.STATUS, "1.1.0")])
def test_a_command_is_refused_by_configs_older_than_it(command: Command, first: str) -> None:
    for version in VERSIONS:
        if at_least(version, first):
            check_version(version, command)
        else:
            with pytest.raises(CniError, match=f"does not allow {command}.*got|expected {first} or newer") as error:
                check_version(version, command)
            assert error.value.code == Code.VERSION


@pytest.mark.parametrize("version", ["", "0.5.0", "1.1", "1.1.0 ", "2.0.0"])
def test_a_version_that_nobody_speaks_is_refused_with_those_we_speak(version: str) -> None:
    with pytest.raises(CniError, match=r"incompatible CNI versions.*0\.1\.0, .*1\.1\.0") as error:
        check_version(version, Command.DEL)
    assert error.value.code == Code.VERSION


def test_the_answer_to_version_has_all_that_we_speak() -> None:
    assert version_answer("0.4.0") == {"cniVersion": "0.4.0", "supportedVersions": list(VERSIONS)}
    assert version_answer("9.9.9")["cniVersion"] == NEWEST


def test_an_error_is_code_message_and_details_if_there_are_any() -> None:
    assert error_answer(CniError(Code.IO, "bad", "disk"), OLDEST) == {
        "cniVersion": "0.1.0",
        "code": 5,
        "msg": "bad",
        "details": "disk",
    }
    assert error_answer(CniError(117, "bad"), NEWEST) == {"cniVersion": "1.1.0", "code": 117, "msg": "bad"}
