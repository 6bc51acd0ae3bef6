"""Where a pod's addresses come from: the plugin that `ipam.type` names, ours in this process, others as executables.

Must not know ranges. Delegation is CNI spec section 4: the same environment and configuration, the same command.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from cni.delegate import add_foreign, call_foreign
from cni.ledger import Key
from cni.node import Node
from cni.plugin import PLUGINS, Plugin, Request, load_plugin
from cni.result import Result
from cni.spec import CniError, Command

IPAM_PLUGINS = ("host-local", "static")
"""Of ours."""


def ipam_type(request: Request) -> str:
    """The plugin that gives addresses; empty when none is wanted."""
    return request.config.part("ipam").text("type")


@contextmanager
def allocated(request: Request, node: Node) -> Iterator[Result]:
    """The addresses of an ADD, given back if the block fails; an empty result when no IPAM is configured. Raises CniError."""
    kind = ipam_type(request)
    if not kind:
        yield Result()
        return
    result = (
        _ours(request).add(request.delegated(kind), node)
        if kind in PLUGINS
        else add_foreign(kind, request.call, request.config.values)
    )
    try:
        yield result
    except BaseException:
        with suppress(CniError):
            free(request, node)
        raise


def _ours(request: Request) -> Plugin:
    kind = ipam_type(request)
    if kind not in IPAM_PLUGINS:
        request.config.part("ipam").wrong("type", kind, f"an IPAM plugin, as {' or '.join(IPAM_PLUGINS)}")
    return load_plugin(kind)


def free(request: Request, node: Node) -> None:
    """Give an attachment's addresses back, in whatever call; raises CniError."""
    kind = ipam_type(request)
    if kind in IPAM_PLUGINS:
        load_plugin(kind).delete(request.delegated(kind), node)
    elif kind and kind not in PLUGINS:
        call_foreign(kind, replace(request.call, command=Command.DEL), request.config.values)


def check(request: Request, node: Node) -> None:
    """Raise CniError if the attachment's addresses are not its own."""
    kind = ipam_type(request)
    if kind in PLUGINS:
        _ours(request).check(request.delegated(kind), node)
    elif kind:
        call_foreign(kind, request.call, request.config.values)


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Give back the addresses of all but these attachments."""
    kind = ipam_type(request)
    if kind in PLUGINS:
        _ours(request).gc(request.delegated(kind), node, valid)
    elif kind:
        call_foreign(kind, request.call, request.config.values)


def status(request: Request, node: Node) -> None:
    """Raise CniError if no address could be given now."""
    kind = ipam_type(request)
    if kind in PLUGINS:
        _ours(request).status(request.delegated(kind), node)
    elif kind and request.call.command is Command.STATUS:
        call_foreign(kind, request.call, request.config.values)
