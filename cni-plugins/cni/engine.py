"""One call from environment and standard input to answer: checks in the reference's order, one call at a time for a container.

The same for the daemon and for the program that stands in when it is away. Must not know sockets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cni.config import Section, decode_config
from cni.ledger import Key
from cni.node import Node
from cni.plugin import Plugin, Request, load_plugin
from cni.result import decode_result, encode_result
from cni.spec import (
    NAME,
    NEWEST,
    OLDEST,
    VERSIONS,
    Call,
    CniError,
    Code,
    Command,
    check_version,
    error_answer,
    parse_call,
    version_answer,
)
from flanneld import FlanneldError
from flanneld.kernel import KernelError
from flanneld.linux.netns import is_network_namespace
from flanneld.log import Log

log = Log(__name__)

FAILED = 1
"""Exit code of a call that was answered with an error."""
UNANSWERED = "CNI_TARTAN_UNANSWERED"
"""The client's word that a daemon which died was asked the same: what it has made for an ADD is of no use to anybody."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the executable is to print, and its exit code."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    undo: Callable[[], None] | None = None
    """To be called when the answer cannot be delivered: nobody knows then of what was made. Needs the call's descriptor open."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A call as it comes in."""

    plugin: str
    """Name of the executable."""
    environ: Mapping[str, str]
    stdin: bytes
    netns: int | None = None
    """An open descriptor of CNI_NETNS, if whoever called could open it; it stays the caller's."""


class Engine:
    """Answers calls; safe for threads."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def answer(self, raw: Raw, alive: Callable[[], None] = lambda: None) -> Answer:
        """Do as the call says; never raises. `alive` raises CniError when nobody waits for the answer any more."""
        if not raw.environ.get("CNI_COMMAND"):
            return about(raw.plugin)
        version = OLDEST
        try:
            call = parse_call(raw.environ)
            if call.command is Command.VERSION:
                return _printed(version_answer(_version_asked(raw.stdin)))
            config = decode_config(raw.stdin)
            version = _said_version(config)
            return self._run(_request(raw, call, config, alive), again=UNANSWERED in raw.environ)
        except CniError as error:
            return refusal(error, version)
        except (FlanneldError, OSError) as error:
            code = Code.FAILED if isinstance(error, KernelError) else Code.IO
            return refusal(CniError(code, f"plugin {raw.plugin!r} failed", str(error)), version)
        except RecursionError as error:  # it could be read, but neither shown nor written
            return refusal(CniError(Code.DECODE, "the network configuration is nested too deep", str(error)), version)
        except Exception as error:  # a fault of ours; the runtime has to get JSON all the same
            log.exception("call failed", plugin=raw.plugin)
            return refusal(CniError(Code.FAILED, f"plugin {raw.plugin!r} failed", repr(error)), version)

    def _run(self, request: Request, *, again: bool) -> Answer:
        plugin = load_plugin(request.plugin)
        match request.call.command:
            case Command.ADD:
                with self.node.container(request.call.container_id):
                    return self._add(plugin, request, again=again)
            case Command.DEL:
                with self.node.container(request.call.container_id):
                    plugin.delete(request, self.node)
            case Command.CHECK:
                with self.node.container(request.call.container_id):
                    plugin.check(request, self.node)
            case Command.GC:
                plugin.gc(request, self.node, _valid_attachments(request))
            case Command.STATUS:
                plugin.status(request, self.node)
        return Answer()

    def _add(self, plugin: Plugin, request: Request, *, again: bool) -> Answer:
        request.alive()
        opposite = replace(request, call=replace(request.call, command=Command.DEL))
        if again:
            plugin.delete(opposite, self.node)
        result = plugin.add(request, self.node)

        def undo() -> None:
            with self.node.container(request.call.container_id):
                plugin.delete(opposite, self.node)

        return _printed(encode_result(result, request.version), undo)


def about(plugin: str) -> Answer:
    """What an executable says that was not called as a plugin, but by somebody who wants to know what it is."""
    return Answer(stderr=f"CNI {plugin} plugin of Tartan\nCNI protocol versions supported: {', '.join(VERSIONS)}\n".encode())


def refusal(error: CniError, version: str) -> Answer:
    """An error as an answer."""
    printed = json.dumps(error_answer(error, version if version in VERSIONS else NEWEST))
    return Answer(stdout=f"{printed}\n".encode(errors="replace"), exit_code=FAILED)


def _printed(values: Mapping[str, object], undo: Callable[[], None] | None = None) -> Answer:
    return Answer(stdout=f"{json.dumps(values)}\n".encode(), undo=undo)


def _version_asked(stdin: bytes) -> str:
    """Of a VERSION call, whose standard input may be anything."""
    try:
        return str(decode_config(stdin).get("cniVersion"))
    except CniError:
        return NEWEST


def _said_version(config: Mapping[str, Any]) -> str:
    return Section(config).text("cniVersion", OLDEST)


def _request(raw: Raw, call: Call, values: Mapping[str, Any], alive: Callable[[], None]) -> Request:
    config = Section(values)
    network = config.text("name")
    if not NAME.fullmatch(network):
        expected = "letters, digits, '_', '.' and '-', the first a letter or digit"
        raise CniError(Code.INVALID_CONFIG, f"name: got {network!r}, expected {expected}")
    version = config.text("cniVersion", OLDEST)
    check_version(version, call.command)
    told = config.part("prevResult").values
    prev_result = decode_result(told, version) if told else None
    if call.command is Command.CHECK and prev_result is None:
        raise CniError(Code.INVALID_CONFIG, "prevResult is missing", "expected the result of ADD, which CHECK compares with")
    netns = _checked_netns(raw, call)
    return Request(call, raw.plugin, config, version, network, netns, prev_result, alive=alive)


def _checked_netns(raw: Raw, call: Call) -> int | None:
    """The pod's namespace; raises CniError (4) if ADD or CHECK have none, or something else in its place."""
    if raw.netns is not None and is_network_namespace(raw.netns):
        return raw.netns
    if call.command in (Command.ADD, Command.CHECK):
        why = "no such file" if raw.netns is None else "that is no network namespace"
        raise CniError(Code.ENVIRONMENT, f"CNI_NETNS: failed to open netns {call.netns!r}", f"{why}, expected a namespace's path")
    return None


def _valid_attachments(request: Request) -> Collection[Key]:
    """What GC is to keep; raises CniError (7) when the list is missing, since then it would keep nothing."""
    key = "cni.dev/valid-attachments"
    if request.config.get(key) is None:
        request.config.wrong(key, None, "the list of attachments that are to stay")
    return {Key(request.network, *_pair(told)) for told in request.config.sections(key)}


def _pair(told: Section) -> tuple[str, str]:
    return told.text("containerID"), told.text("ifname")


@contextmanager
def opened_netns(environ: Mapping[str, str]) -> Iterator[int | None]:
    """The pod's namespace as the caller would open it; None when it cannot be opened."""
    path = environ.get("CNI_NETNS")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if path else None
    except (OSError, ValueError):
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)
