"""What a plugin is, and what it is asked: the contract of every module in PLUGINS; must not know any of them.

A plugin is a module with five functions. `add` may raise half way: what it wrote down in `node.holding` is undone then. `delete`
succeeds when there is nothing to delete, and when the configuration makes no sense any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from cni.config import Section
from cni.ledger import Key
from cni.result import Dns, Result
from cni.spec import Call, CniError, Code, Command

if TYPE_CHECKING:
    from cni.node import Node

PLUGINS: Mapping[str, str] = {
    "bandwidth": "cni.bandwidth",
    "bridge": "cni.bridge",
    "firewall": "cni.firewall",
    "flannel": "cni.flannel",
    "host-local": "cni.host_local",
    "ipvlan": "cni.ipvlan",
    "loopback": "cni.loopback",
    "macvlan": "cni.macvlan",
    "portmap": "cni.portmap",
    "ptp": "cni.ptp",
    "static": "cni.static",
    "tuning": "cni.tuning",
    "vlan": "cni.vlan",
}
"""Type, which is the executable's name -> module; imported when first called."""

COMMON_KEYS = (
    "cniVersion", "cniVersions", "name", "type", "capabilities", "args", "runtimeConfig", "prevResult", "dns",
    "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "cni.dev/valid-attachments", "cni.dev/attachments",
)  # fmt: skip
"""Keys that any plugin's configuration may have (spec section 1)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of one plugin."""

    call: Call
    plugin: str
    """The type asked for."""
    config: Section
    """The plugin's whole configuration."""
    version: str
    """Of the configuration; the answer has its shape."""
    network: str
    netns: int | None = None
    """An open descriptor of the pod's namespace; None when there is none (any more). The engine closes it."""
    prev_result: Result | None = None
    caller: str = ""
    """The plugin of ours that delegates to this one, in the same call; empty: the runtime calls it."""
    alive: Callable[[], None] = lambda: None
    """Raises FlanneldError when nobody waits for the answer any more: to be called before what takes long to make or to undo."""

    @property
    def key(self) -> Key:
        """The attachment that the call is about."""
        return Key(self.network, self.call.container_id, self.call.ifname)

    @property
    def pod(self) -> str:
        """The pod as Kubernetes calls it, NAMESPACE/NAME; empty when the runtime does not say."""
        args = self.call.args or {}
        return "/".join(args[name] for name in ("K8S_POD_NAMESPACE", "K8S_POD_NAME") if args.get(name))

    @property
    def runtime(self) -> Section:
        """`runtimeConfig`: what the runtime supplies for the capabilities."""
        return self.config.part("runtimeConfig")

    @property
    def dns(self) -> Dns | None:
        """What the configuration itself says of resolvers, if anything; raises CniError (7)."""
        told = self.config.part("dns")
        if self.config.get("dns") is None:
            return None
        return Dns(told.texts("nameservers"), told.text("domain"), told.texts("search"), told.texts("options"))

    def arg(self, name: str) -> str:
        """An extra argument: `args.cni` before CNI_ARGS (CONVENTIONS.md of CNI); empty when nobody gave it."""
        value = self.config.part("args").part("cni").get(name)
        return value if isinstance(value, str) else (self.call.args or {}).get(name.upper(), "")

    def open_netns(self) -> int:
        """The descriptor; raises CniError when there is none."""
        if self.netns is None:
            raise CniError(Code.FAILED, f"failed to open netns {self.call.netns!r}", "no such namespace, expected the path of one")
        return self.netns

    def require_prev_result(self) -> Result:
        """What the plugins before this one made; raises CniError (7) when this one stands alone."""
        if self.prev_result is None:
            raise CniError(Code.INVALID_CONFIG, f"{self.plugin} must be called as chained plugin", "expected a prevResult")
        return self.prev_result

    def finish_config(self) -> None:
        """Every key has been read: raise CniError (2) if one is left, except when it is too late to complain."""
        self.config.ignore(*COMMON_KEYS)
        if self.call.command is not Command.DEL:
            self.config.finish()

    def delegated(self, plugin: str, config: Mapping[str, Any] | None = None) -> Request:
        """The same call for another plugin, with the same configuration or one of its own."""
        return replace(self, plugin=plugin, caller=self.plugin, config=Section(config or self.config.values))


class Plugin(Protocol):
    """The functions that a module in PLUGINS has. Each raises CniError, KernelError (answered as FAILED) or OSError (IO)."""

    def add(self, request: Request, node: Node) -> Result:
        """Attach; returns all that the chain has made so far."""

    def delete(self, request: Request, node: Node) -> None:
        """Detach, as far as this plugin had attached; may be repeated."""

    def check(self, request: Request, node: Node) -> None:
        """Raise CniError if what ADD made is not as it was."""

    def gc(self, request: Request, node: Node, valid: Collection[Key]) -> None:
        """Let go of what this plugin holds in the network for any attachment that is not in `valid`."""

    def status(self, request: Request, node: Node) -> None:
        """Raise CniError (50, 51) if an ADD could not succeed now."""


def load_plugin(name: str) -> Plugin:
    """The plugin of that type; raises CniError (7)."""
    if name not in PLUGINS:
        raise CniError(Code.INVALID_CONFIG, f"there is no plugin {name!r} here", f"expected one of {', '.join(sorted(PLUGINS))}")
    return cast("Plugin", import_module(PLUGINS[name]))
