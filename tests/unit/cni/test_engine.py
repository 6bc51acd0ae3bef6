"""One call from environment and standard input to answer: what is checked first, and what is said of it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import engine as module
from cni.engine import Answer, Engine, Raw, opened_netns
from cni.ledger import Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Interface, Result
from cni.spec import VERSIONS, CniError, Code, Command
from cni_requests import bare_node
from flanneld import FlanneldError
from flanneld.kernel import KernelError

CONF = {"cniVersion": "1.1.0", "name": "net", "type": "bridge"}
PREVIOUS = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}]}
ATTACHMENT = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/proc/self/ns/net", "CNI_IFNAME": "eth0"}


class Plugin:
    """Remembers the requests; raises what it is told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Request]] = []
        self.valid: list[object] = []
        self.error: Exception | None = None

    def add(self, request: Request, node: Node) -> Result:
        self._note("add", request)
        return Result((Interface("eth0"),))

    def delete(self, request: Request, node: Node) -> None:
        self._note("delete", request)

    def check(self, request: Request, node: Node) -> None:
        self._note("check", request)

    def gc(self, request: Request, node: Node, valid: object) -> None:
        self.valid.append(valid)

    def status(self, request: Request, node: Node) -> None:
        self._note("status", request)

    def _note(self, what: str, request: Request) -> None:
        if self.error:
            raise self.error
        if what in ("add", "delete", "check"):
            assert request.call.container_id
        self.requests.append((what, request))


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Plugin:
    made = Plugin()
    monkeypatch.setattr(module, "load_plugin", lambda name: made)
    return made


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with bare_node(tmp_path) as node:
        yield Engine(node)


def ask(engine: Engine, command: str, conf: dict[str, Any] | bytes = b"", **environ: str) -> Answer:
    environ = {"CNI_COMMAND": command, **ATTACHMENT, **environ}
    stdin = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    with opened_netns(environ) as netns:
        return engine.answer(Raw("bridge", environ, stdin, netns))


def refused(answer: Answer) -> dict[str, Any]:
    assert (answer.exit_code, answer.stderr) == (1, b"")
    shown: dict[str, Any] = json.loads(answer.stdout)
    return shown


def test_without_a_command_it_says_what_it_is(engine: Engine) -> None:
    for environ in ({}, {"CNI_COMMAND": ""}):
        answer = engine.answer(Raw("bridge", environ, b""))
        assert (answer.stdout, answer.exit_code) == (b"", 0)
        assert answer.stderr == f"CNI bridge plugin of Tartan\nCNI protocol versions supported: {', '.join(VERSIONS)}\n".encode()


@pytest.mark.parametrize(("stdin", "version"), [(b"", "1.1.0"), (b"junk", "1.1.0"), (b'{"cniVersion": "0.3.1"}', "0.3.1")])
def test_version_is_answered_whatever_is_on_standard_input(engine: Engine, stdin: bytes, version: str) -> None:
    answer = engine.answer(Raw("bridge", {"CNI_COMMAND": "VERSION"}, stdin))
    assert json.loads(answer.stdout) == {"cniVersion": version, "supportedVersions": list(VERSIONS)}
    assert answer.exit_code == 0


def test_add_prints_the_result_in_the_configs_version(engine: Engine, plugin: Plugin) -> None:
    for version in ("0.3.1", "1.1.0"):
        answer = ask(engine, "ADD", CONF | {"cniVersion": version})
        assert json.loads(answer.stdout) == {"cniVersion": version, "interfaces": [{"name": "eth0"}], "dns": {}}
    answer = ask(engine, "ADD", {"name": "net", "type": "bridge"})
    assert json.loads(answer.stdout)["cniVersion"] == "0.1.0"


@pytest.mark.parametrize("command", ["DEL", "CHECK", "STATUS"])
def test_others_print_nothing(engine: Engine, plugin: Plugin, command: str) -> None:
    assert ask(engine, command, CONF | {"prevResult": PREVIOUS}) == Answer(undo=Answer().undo)
    assert len(plugin.requests) == 1


@pytest.mark.parametrize(
    ("environ", "stdin", "code"),
    [
        ({"CNI_COMMAND": "NO"}, b"junk", Code.ENVIRONMENT),
        ({"CNI_CONTAINERID": "/"}, b"junk", Code.ENVIRONMENT),
        ({}, b"junk", Code.DECODE),
        ({"CNI_NETNS": "/no"}, b'{"cniVersion": "9.0.0"}', Code.INVALID_CONFIG),
        ({"CNI_NETNS": "/no"}, b'{"cniVersion": "9.0.0", "name": "a/b"}', Code.INVALID_CONFIG),
        ({"CNI_NETNS": "/no"}, b'{"cniVersion": "9.0.0", "name": "net", "prevResult": {"ips": 1}}', Code.VERSION),
        ({"CNI_NETNS": "/no"}, b'{"cniVersion": "1.0.0", "name": "net", "prevResult": {"ips": 1}}', Code.DECODE),
        ({"CNI_NETNS": "/no"}, b'{"cniVersion": "1.0.0", "name": "net"}', Code.ENVIRONMENT),
        ({"CNI_NETNS": "/proc/self/ns/mnt"}, b'{"cniVersion": "1.0.0", "name": "net"}', Code.ENVIRONMENT),
        ({"CNI_NETNS": "/dev/null"}, b'{"cniVersion": "1.0.0", "name": "net"}', Code.ENVIRONMENT),
        ({}, b'{"cniVersion": 1, "name": "net"}', Code.INVALID_CONFIG),
        ({}, b'{"cniVersion": "1.0.0", "name": "net", "prevResult": 1}', Code.INVALID_CONFIG),
    ],
)
def test_what_is_wrong_first_is_told_first(
    engine: Engine, plugin: Plugin, environ: dict[str, str], stdin: bytes, code: Code
) -> None:
    assert refused(ask(engine, environ.get("CNI_COMMAND", "ADD"), stdin, **environ))["code"] == code
    assert plugin.requests == []


def test_a_plugin_that_is_not_ours_is_named(engine: Engine) -> None:
    told = engine.answer(Raw("dhcp", {"CNI_COMMAND": "STATUS"}, json.dumps(CONF).encode()))
    assert refused(told)["msg"] == "there is no plugin 'dhcp' here"


@pytest.mark.parametrize(("version", "told"), [("1.0.0", "1.0.0"), ("9.0.0", "1.1.0")])
def test_an_error_is_in_the_configs_version_if_we_speak_it(engine: Engine, version: str, told: str) -> None:
    assert refused(ask(engine, "STATUS", CONF | {"cniVersion": version})) == {
        "cniVersion": told,
        "code": 1,
        "msg": "config version does not allow STATUS" if version == "1.0.0" else "incompatible CNI versions",
        "details": refused(ask(engine, "STATUS", CONF | {"cniVersion": version}))["details"],
    }


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CniError(117, "no", "why"), 117, "no"),
        (KernelError(17, "veth x", "file exists"), Code.FAILED, "plugin 'bridge' failed"),
        (FlanneldError("journal full"), Code.IO, "plugin 'bridge' failed"),
        (OSError(28, "No space left"), Code.IO, "plugin 'bridge' failed"),
    ],
)
def test_what_a_plugin_raises_is_an_answer(engine: Engine, plugin: Plugin, error: Exception, code: int, text: str) -> None:
    plugin.error = error
    shown = refused(ask(engine, "ADD", CONF))
    assert (shown["code"], shown["msg"], shown["cniVersion"]) == (code, text, "1.1.0")


def test_a_fault_of_ours_is_an_answer_too_and_is_logged(engine: Engine, plugin: Plugin, caplog: pytest.LogCaptureFixture) -> None:
    plugin.error = ZeroDivisionError("bug")
    with caplog.at_level(logging.ERROR):
        assert refused(ask(engine, "ADD", CONF))["details"] == "ZeroDivisionError('bug')"
    assert "call failed" in caplog.text


def test_check_needs_the_result_of_add(engine: Engine, plugin: Plugin) -> None:
    assert refused(ask(engine, "CHECK", CONF))["code"] == Code.INVALID_CONFIG
    ask(engine, "CHECK", CONF | {"prevResult": PREVIOUS})
    ((_, request),) = plugin.requests
    assert request.require_prev_result() == Result((Interface("eth0"),))


def test_del_does_without_namespace_and_result(engine: Engine, plugin: Plugin) -> None:
    for netns in ("", "/no/such", "/dev/null"):
        assert ask(engine, "DEL", CONF, CNI_NETNS=netns).exit_code == 0
    assert [request.netns for _, request in plugin.requests] == [None, None, None]


def test_gc_is_told_which_attachments_are_valid_and_refuses_to_guess(engine: Engine, plugin: Plugin) -> None:
    assert refused(ask(engine, "GC", CONF))["code"] == Code.INVALID_CONFIG
    assert ask(engine, "GC", CONF | {"cni.dev/valid-attachments": []}).exit_code == 0
    ask(engine, "GC", CONF | {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]})
    assert plugin.valid == [set(), {Key("net", "c1", "eth0")}]


def test_nothing_is_made_for_a_client_that_is_gone(engine: Engine, plugin: Plugin) -> None:
    def gone() -> None:
        raise FlanneldError("the CNI client is gone")

    with opened_netns(ATTACHMENT) as netns:
        answer = engine.answer(Raw("bridge", {"CNI_COMMAND": "ADD", **ATTACHMENT}, json.dumps(CONF).encode(), netns), gone)
    assert refused(answer)["details"] == "the CNI client is gone"
    assert plugin.requests == []


def test_an_add_is_undone_by_a_del(engine: Engine, plugin: Plugin) -> None:
    undo = ask(engine, "ADD", CONF).undo
    assert undo is not None
    undo()
    assert [(what, request.call.command) for what, request in plugin.requests] == [("add", Command.ADD), ("delete", Command.DEL)]
    assert plugin.requests[0][1].key == plugin.requests[1][1].key


def test_the_namespace_is_opened_as_the_caller_would_and_closed(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for path, there in (("/proc/self/ns/net", True), ("/no", False), ("", False), ("a\0b", False)):
        with opened_netns({"CNI_NETNS": path}) as netns:
            assert (netns is not None) is there
    assert len(os.listdir("/proc/self/fd")) == descriptors
