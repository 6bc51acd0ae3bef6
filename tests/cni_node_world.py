"""A node of our plugins in a namespace of its own, called as the daemon calls it, and killed as often as need be."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cni.engine import Answer, Engine, Raw
from cni.ledger import Ledger
from cni.node import Node
from cni.undertaker import Undertaker
from flanneld.linux import netns
from scratch_netns import ScratchNetns, scratch_netns

P = ParamSpec("P")
T = TypeVar("T")


class NodeWorld:
    """The node, its host's namespace, and pods."""

    def __init__(self, host: ScratchNetns, directory: Path, stack: ExitStack, lasting: bool) -> None:
        self.host = host
        self.directory = directory
        self.lasting = lasting
        self.networks = directory / "networks"
        self._stack = stack
        self.node = self.run(self._open)

    def _open(self) -> Node:
        return Node(Ledger(self.directory / "journal"), self.directory / "subnet.env", Undertaker() if self.lasting else None)

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call on the host."""
        return netns.run_in(self.host.path, function, *args, **kwargs)

    def restart(self) -> None:
        """A new process takes over; what the old one had written is all that is left of it."""
        self.node.close()
        self.node = self.run(self._open)

    def pod(self) -> ScratchNetns:
        return self._stack.enter_context(scratch_netns())

    def conf(self, **more: Any) -> dict[str, Any]:
        ranges = [[{"subnet": "10.244.7.0/24"}], [{"subnet": "fd00:7::/64"}]]
        ipam = {"type": "host-local", "dataDir": str(self.networks), "ranges": ranges} | more.pop("ipam", {})
        return {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "isDefaultGateway": True, "mtu": 1450, "ipam": ipam} | more

    def ask(
        self,
        command: str,
        container: str,
        pod: ScratchNetns | None = None,
        conf: dict[str, Any] | None = None,
        then: Callable[[Answer], None] = lambda answer: None,
    ) -> Answer:
        """One call for `eth0` of a container, in a thread of its own on the host; `then` is called while it goes on."""
        told = conf or self.conf()
        path = str(pod.path) if pod else ""
        environ = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": path}
        environ["CNI_PATH"] = str(self.directory)
        descriptor = os.open(path, os.O_RDONLY) if pod and pod.path.exists() else None
        try:
            answer = self.run(Engine(self.node).answer, Raw(told["type"], environ, json.dumps(told).encode(), descriptor))
            then(answer)
            return answer
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def add(self, container: str, pod: ScratchNetns, **conf: Any) -> dict[str, Any]:
        answer = self.ask("ADD", container, pod, self.conf(**conf))
        assert answer.exit_code == 0, answer.stdout
        result: dict[str, Any] = json.loads(answer.stdout)
        return result

    def delete(self, container: str, pod: ScratchNetns | None = None, **conf: Any) -> None:
        answer = self.ask("DEL", container, pod, self.conf(**conf))
        assert (answer.exit_code, answer.stdout) == (0, b"")

    def refused(self, command: str, container: str, pod: ScratchNetns | None = None, **conf: Any) -> str:
        """The error's message and details."""
        answer = self.ask(command, container, pod, self.conf(**conf))
        assert answer.exit_code == 1
        told = json.loads(answer.stdout)
        return f"{told['msg']}: {told.get('details', '')}"

    def links(self, where: ScratchNetns | None = None) -> set[str]:
        return {link["ifname"] for link in (where or self.host).read("ip link show")}

    def veths(self) -> set[str]:
        return {name for name in self.links() if name.startswith("veth")}

    def claims(self) -> set[str]:
        """Addresses that have a file."""
        return {path.name for path in self.networks.rglob("*") if path.is_file() and not path.name.startswith("last_")}


def addresses(result: dict[str, Any]) -> list[str]:
    return [ip["address"].partition("/")[0] for ip in result["ips"]]


def eventually(is_so: Callable[[], bool], patience_s: float = 10.0) -> bool:
    give_up_at = time.monotonic() + patience_s
    while not is_so() and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return is_so()


@contextmanager
def node_world(directory: Path, *, lasting: bool = False) -> Iterator[NodeWorld]:
    with ExitStack() as stack:
        world = NodeWorld(stack.enter_context(scratch_netns()), directory, stack, lasting)
        stack.callback(lambda: world.node.close())
        yield world
