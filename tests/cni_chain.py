"""A network of several CNI plugins, called one after the other as libcni does (CNI spec 1.1.0 §3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cni_world import Attachment, CniHost, Json, Outcome


@dataclass(frozen=True)
class Chain:
    """What a .conflist says, on one host."""

    host: CniHost
    plugins: tuple[Json, ...]
    name: str = "net"
    version: str = "1.0.0"

    def add(self, attachment: Attachment, **capabilities: Any) -> Json:
        """Attach; the last plugin's result. `capabilities` are what the runtime supplies (CNI spec, CONVENTIONS.md)."""
        result: Json | None = None
        for plugin in self.plugins:
            result = self.host.add(self._conf(plugin, result, capabilities), attachment)
        assert result is not None, "a chain has plugins"
        return result

    def check(self, attachment: Attachment, result: Json, **capabilities: Any) -> None:
        """Assert that each plugin finds what its ADD made."""
        for plugin in self.plugins:
            self._call("CHECK", plugin, attachment, result, capabilities).succeeded()

    def delete(self, attachment: Attachment, result: Json | None = None, **capabilities: Any) -> None:
        """Detach, in reverse order; without a result as a runtime that has forgotten it."""
        for plugin in reversed(self.plugins):
            self._call("DEL", plugin, attachment, result, capabilities).succeeded()

    def _call(self, command: str, plugin: Json, attachment: Attachment, result: Json | None, capabilities: Json) -> Outcome:
        return self.host.call(plugin["type"], command, self._conf(plugin, result, capabilities), attachment)

    def _conf(self, plugin: Json, previous: Json | None, capabilities: Json) -> Json:
        declared = plugin.get("capabilities", {})
        supplied = {name: value for name, value in capabilities.items() if declared.get(name)}
        return {
            **plugin,
            "name": self.name,
            "cniVersion": self.version,
            **({"runtimeConfig": supplied} if supplied else {}),
            **({"prevResult": previous} if previous is not None else {}),
        }


def conf(plugin: str, version: str = "1.0.0", **keys: Any) -> Json:
    """One plugin's configuration, of the network `net`."""
    return {"cniVersion": version, "name": "net", "type": plugin, **keys}


def host_local(*subnets: str, **keys: Any) -> Json:
    """An `ipam` section that hands out one address of each subnet."""
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], **keys}


def static(*addresses: str, **keys: Any) -> Json:
    """An `ipam` section that gives these addresses."""
    return {"type": "static", "addresses": [{"address": address} for address in addresses], **keys}


def ips(result: Json) -> list[str]:
    """The addresses in a result, in the order of its version: `ip4` and `ip6` before 0.3.0, `ips` since."""
    if "ips" in result:
        return [ip["address"] for ip in result["ips"]]
    return [result[key]["ip"] for key in ("ip4", "ip6") if key in result]


def gateways(result: Json) -> list[str]:
    if "ips" in result:
        return [ip["gateway"] for ip in result["ips"] if "gateway" in ip]
    return [result[key]["gateway"] for key in ("ip4", "ip6") if "gateway" in result.get(key, {})]


def interface(result: Json, name: str) -> Json:
    """The one interface of that name in a result."""
    (found,) = [one for one in result["interfaces"] if one["name"] == name]
    return found  # type: ignore[no-any-return]


def host_end(result: Json, *others: str) -> Json:
    """The interface on the host, which is not one of `others`, that the container's hangs on."""
    (found,) = [one for one in result["interfaces"] if not one.get("sandbox") and one["name"] not in others]
    return found  # type: ignore[no-any-return]
