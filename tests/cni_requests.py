"""Requests to our plugins' functions, made as the engine makes them, and nodes without a kernel to speak of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cni.config import Section
from cni.ledger import Ledger
from cni.node import Node
from cni.plugin import Request
from cni.spec import Call, Command


def request(
    plugin: str,
    conf: Mapping[str, Any],
    command: Command = Command.ADD,
    *,
    container: str = "c1",
    netns: int | None = None,
    path: str = "",
    args: Mapping[str, str] | None = None,
) -> Request:
    """What the engine would ask of a plugin, for `eth0` of a container in network `net` unless `conf` names another."""
    call = Call(command, container, path, "eth0", args)
    full = {"cniVersion": "1.0.0", "name": "net", "type": plugin, **conf}
    return Request(call, plugin, Section(full), full["cniVersion"], full["name"], netns)


@contextmanager
def bare_node(directory: Path) -> Iterator[Node]:
    """A node whose ledger is there, in the network namespace that the test runs in: for plugins that change no links."""
    node = Node(Ledger(directory / "journal"), directory / "subnet.env")
    try:
        yield node
    finally:
        node.close()
