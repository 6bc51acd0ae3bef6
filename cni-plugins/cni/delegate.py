"""Plugins that are not ours, called for one of ours that delegates to them (CNI spec section 4); must not know why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cni.invoke import Executables
from cni.result import Result, decode_result
from cni.spec import OLDEST, Call


def add_foreign(plugin: str, call: Call, config: Mapping[str, Any]) -> Result:
    """ADD with the same environment; raises PluginError, CniError."""
    printed = Executables(call.path).ask(plugin, call.command, config, _about(call))
    return decode_result(printed, config.get("cniVersion") or OLDEST)


def call_foreign(plugin: str, call: Call, config: Mapping[str, Any]) -> None:
    """Anything else with the same environment; raises PluginError."""
    Executables(call.path).call(plugin, call.command, config, _about(call))


def _about(call: Call) -> dict[str, str]:
    args = ";".join(f"{key}={value}" for key, value in (call.args or {}).items())
    return {"CNI_CONTAINERID": call.container_id, "CNI_NETNS": call.netns, "CNI_IFNAME": call.ifname, "CNI_ARGS": args}
