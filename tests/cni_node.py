"""Our CNI plugins as modules, called with a real node whose host is a scratch namespace; must not know any plugin."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni.config import Section
from cni.ledger import Key, Ledger
from cni.node import Node
from cni.plugin import Plugin, Request, load_plugin
from cni.result import Result, decode_result, encode_result
from cni.spec import Call, Command
from flanneld.linux import netns
from scratch_netns import ScratchNetns, scratch_netns

Json = dict[str, Any]
VERSION = "1.1.0"
CONTAINER = "c1"


def request(
    command: Command, conf: Mapping[str, Any], *, pod: int | None = None, path: str = "", prev: Result | None = None, **call: Any
) -> Request:
    """A call, as the engine hands it to a plugin; `call` are fields of Call."""
    version = conf.get("cniVersion", VERSION)
    about = {"container_id": CONTAINER, "ifname": "eth0", "netns": path, **call}
    return Request(Call(command, **about), conf.get("type", ""), Section(conf), version, conf.get("name", "net"), pod, prev)


@dataclass
class CniNode:
    """A host with our plugins, each call made in the one thread that is in its namespace."""

    host: ScratchNetns
    ledger: Ledger
    thread: ThreadPoolExecutor
    node: Node = field(init=False)

    def __post_init__(self) -> None:
        self.node = self.thread.submit(Node, self.ledger, Path("/nonexistent")).result()

    def add(self, conf: Json, pod: ScratchNetns, prev: Result | None = None, **call: Any) -> Result:
        result = self.call(Command.ADD, conf, pod, prev, **call)
        assert isinstance(result, Result)
        assert decode_result(encode_result(result, VERSION), VERSION) == result
        return result

    def call(
        self, command: Command, conf: Json, pod: ScratchNetns | None = None, prev: Result | None = None, **call: Any
    ) -> Result | None:
        """ADD, DEL, CHECK or STATUS; raises what the plugin does."""

        def called(plugin: Plugin, descriptor: int | None) -> Result | None:
            asked = request(command, conf, pod=descriptor, path=str(pod.path) if pod else "", prev=prev, **call)
            match command:
                case Command.ADD:
                    return plugin.add(asked, self.node)
                case Command.CHECK:
                    plugin.check(asked, self.node)
                case Command.DEL:
                    plugin.delete(asked, self.node)
                case _:
                    plugin.status(asked, self.node)
            return None

        descriptor = os.open(pod.path, os.O_RDONLY) if pod else None
        try:
            return self.thread.submit(called, load_plugin(conf["type"]), descriptor).result()
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def delete(self, conf: Json, pod: ScratchNetns | None = None, prev: Result | None = None, **call: Any) -> None:
        self.call(Command.DEL, conf, pod, prev, **call)

    def check(self, conf: Json, pod: ScratchNetns, prev: Result, **call: Any) -> None:
        self.call(Command.CHECK, conf, pod, prev, **call)

    def status(self, conf: Json) -> None:
        self.call(Command.STATUS, conf)

    def gc(self, conf: Json, valid: Collection[Key] = ()) -> None:
        plugin = load_plugin(conf["type"])
        self.thread.submit(plugin.gc, request(Command.GC, conf), self.node, valid).result()

    def links(self, scratch: ScratchNetns | None = None) -> dict[str, Json]:
        """All links but lo, as `ip` shows them."""
        return {link["ifname"]: link for link in (scratch or self.host).read("ip link show") if link["ifname"] != "lo"}


@contextmanager
def cni_node(directory: Path) -> Iterator[CniNode]:
    """A host without interfaces, and its ledger in a file of `directory`."""
    with scratch_netns() as host, ThreadPoolExecutor(1, initializer=netns.setns, initargs=(host.path,)) as thread:
        made = CniNode(host, Ledger(directory / "journal"), thread)
        try:
            yield made
        finally:
            made.node.close()
