"""flannel: fills in what this host's lease says, and lets another plugin do the work: `bridge`, or the one that is configured.

Keys, defaults and the file kept for DEL are the reference's (flannel-io/cni-plugin): either can follow on the other. Done
otherwise: a bridge whose address is from an earlier lease gets the new one, pods that run follow when the lease's MTU changes
(`cni.mtu`), no route promises more than the delegate's own `mtu`, and CHECK, GC and STATUS are for real.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cni.config import Section, decode_config
from cni.delegate import add_foreign, call_foreign
from cni.files import read_file, remove_file, write_file
from cni.ledger import HeldFile, Key
from cni.node import Node
from cni.plugin import PLUGINS, Request, load_plugin
from cni.result import Result
from cni.spec import CniError, Code, Command
from flanneld import subnet_env
from flanneld.subnet_env import SubnetEnv, SubnetEnvError

DATA_DIR = "/var/lib/cni/flannel"
DEFAULT_DELEGATE = "bridge"
DELEGATE_LEFTOVERS = ("bridge", "host-local")
"""Whose records go with an attachment whose kept configuration is lost."""

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Flannel:
    """The configuration, checked."""

    subnet_file: Path
    kept: Path
    """dataDir/CONTAINER: the delegate's configuration, from ADD to DEL."""
    ipam: Config
    delegate: Config

    @property
    def mtu_from(self) -> str:
        """The file whose MTU the pod's is, now and later; empty: the delegate's configuration says one."""
        return "" if "mtu" in self.delegate else str(self.subnet_file)


def parse(request: Request, node: Node) -> Flannel:
    """Raises CniError (2, 7)."""
    told = request.config
    config = Flannel(
        Path(told.text("subnetFile") or node.subnet_file),
        Path(told.text("dataDir", DATA_DIR)) / request.call.container_id,
        _given(told.part("ipam")),
        _given(told.part("delegate")),
    )
    request.finish_config()
    delegate = told.part("delegate")
    for key in ("name", "ipam"):
        if delegate.get(key) is not None:
            delegate.wrong(key, delegate.get(key), "nothing: flannel sets it")
    delegate.text("type")  # or it is wrong
    told.part("ipam").sections("routes")
    return config


def _given(told: Section) -> Config:
    return {key: value for key, value in told.values.items() if value is not None}


def delegate_config(request: Request, config: Flannel, env: SubnetEnv) -> dict[str, Any]:
    """What the delegate gets on its standard input."""
    filled: dict[str, Any] = {
        "type": DEFAULT_DELEGATE,
        "ipMasq": not env.ip_masq,
        "mtu": env.mtu,
        **config.delegate,
        "name": request.network,
        "cniVersion": request.version,
        "ipam": _ipam(config, env),
    }
    if filled["type"] == DEFAULT_DELEGATE:
        filled = {"isGateway": True, "forceAddress": True} | filled
    if request.runtime.values:
        filled["runtimeConfig"] = request.runtime.values
    args = request.config.part("args").values
    return filled | ({"args": args} if args else {})


def _ipam(config: Flannel, env: SubnetEnv) -> dict[str, Any]:
    told, own = config.ipam, config.delegate.get("mtu")
    # A route's MTU counts, and not its interface's: what is larger than the latter would be dropped, and nobody told.
    mtu = min(own, env.mtu) if isinstance(own, int) and own > 0 else env.mtu
    ranges = [[{"subnet": str(subnet)}] for subnet in env.subnets]  # instead of what is told, as in the reference
    routes = [*(told.get("routes") or ()), *({"dst": str(network), "mtu": mtu} for network in env.networks)]
    return {"type": "host-local", **told, "ranges": ranges, "routes": routes}


def read_lease(path: Path, code: Code) -> SubnetEnv:
    """What flanneld says of this host; raises CniError with that code."""
    try:
        env = subnet_env.read(path)
    except SubnetEnvError as error:
        raise CniError(code, "failed to load flannel 'subnet.env' file", str(error)) from error
    if env is None:
        why = f"open {path}: no such file or directory, expected flanneld to have written it: see its log on this node"
        raise CniError(code, "failed to load flannel 'subnet.env' file", why)
    return env


def add(request: Request, node: Node) -> Result:
    """Keep the delegate's configuration and call it."""
    config = parse(request, node)
    with node.holding(request, HeldFile(str(config.kept)), mtu_from=config.mtu_from):
        # Not before it is written down: whoever makes pods follow a lease that changes meanwhile is to find this one.
        delegate = delegate_config(request, config, read_lease(config.subnet_file, Code.TRY_LATER))
        write_file(config.kept, json.dumps(delegate), mode=0o600)
        return _add_delegate(request, node, delegate)


def _add_delegate(request: Request, node: Node, delegate: Config) -> Result:
    kind = delegate["type"]
    if kind in PLUGINS:
        return load_plugin(kind).add(request.delegated(kind, delegate), node)
    try:
        return add_foreign(kind, request.call, delegate)
    except CniError:
        with suppress(CniError):
            call_foreign(kind, replace(request.call, command=Command.DEL), delegate)
        raise


def delete(request: Request, node: Node) -> None:
    """Let the delegate undo what the kept configuration says; no such file: there is nothing to undo that we know of."""
    path = Path(request.config.text("dataDir", DATA_DIR)) / request.call.container_id
    kept = read_file(path)
    if kept is None:
        for plugin in DELEGATE_LEFTOVERS:
            node.release_of(request.key, plugin)
        node.release_of(request.key, request.plugin)
        return
    try:
        delegate = decode_config(kept)
    except CniError:  # torn by a power cut
        delegate = {"type": DEFAULT_DELEGATE, "name": request.network, "ipam": {"type": "host-local"}}
    _call_delegate(request, node, delegate, Command.DEL)
    node.release_of(request.key, request.plugin)
    remove_file(path)


def _call_delegate(request: Request, node: Node, delegate: Config, command: Command, valid: Collection[Key] = ()) -> None:
    """Call the delegate for something that has no result."""
    kind = delegate.get("type") or DEFAULT_DELEGATE
    told = request.config.get("prevResult")
    full = {**delegate} | ({"prevResult": told} if told else {})
    if kind not in PLUGINS:
        call_foreign(kind, replace(request.call, command=command), full)
        return
    plugin, delegated = load_plugin(kind), request.delegated(kind, full)
    match command:
        case Command.DEL:
            plugin.delete(delegated, node)
        case Command.CHECK:
            plugin.check(delegated, node)
        case Command.GC:
            plugin.gc(delegated, node, valid)
        case Command.STATUS:
            plugin.status(delegated, node)


def check(request: Request, node: Node) -> None:
    """Let the delegate compare."""
    config = parse(request, node)
    kept = read_file(config.kept)
    if kept is None:
        raise CniError(Code.FAILED, f"{request.key} is not attached", f"no file {config.kept}")
    _call_delegate(request, node, decode_config(kept), Command.CHECK)


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Detach what no valid attachment is, as its own kept configuration says; then the delegate may clean up behind itself."""
    config = parse(request, node)
    for record in node.ledger.records(request.network):
        if record.plugin == request.plugin and record.key not in valid:
            call = replace(
                request.call, command=Command.DEL, container_id=record.key.container_id, ifname=record.key.ifname, netns=""
            )
            with node.container(record.key.container_id):
                delete(replace(request, call=call, netns=None, prev_result=None), node)
    with suppress(SubnetEnvError):
        env = subnet_env.read(config.subnet_file)
        if env is not None:
            lists = {key: request.config.get(key) for key in ("cni.dev/valid-attachments", "cni.dev/attachments")}
            delegate = delegate_config(request, config, env) | {key: value for key, value in lists.items() if value is not None}
            _call_delegate(request, node, delegate, Command.GC, valid)


def status(request: Request, node: Node) -> None:
    """Raise CniError (50) until flanneld has a lease, and when the delegate could not work."""
    config = parse(request, node)
    delegate = delegate_config(request, config, read_lease(config.subnet_file, Code.NOT_AVAILABLE))
    _call_delegate(request, node, delegate, Command.STATUS)
