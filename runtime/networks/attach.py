"""Attachments made and unmade by the CNI plugins of their network: values in, values out; must not know which networks there are.

Everything blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from cni.cache import Attachment, CacheError, ResultCache
from cni.chain import Chain, make_request
from cni.conflist import Conflist, parse_conflist
from cni.invoke import PATH, PluginError
from cni.result import Result, decode_result
from cni.spec import CniError, Code, Command
from flanneld import FlanneldError
from flanneld.log import Log
from runtime.config import EndpointSettings
from runtime.errors import EngineError, Forbidden, Unavailable
from runtime.networks.network import Published
from runtime.networks.ports import ANYWHERE, parse_port
from runtime.networks.resident import Node, ResidentPlugins
from runtime.networks.sandbox import Attached, Sandbox

log = Log(__name__)

PORTMAP = "portmap"
MAPPINGS = "portMappings"


class Attacher:
    """The plugins of this host, as runtimes call them."""

    def __init__(self, bin_dir: Path, node: Node, cache: ResultCache | None = None) -> None:
        self._plugins = ResidentPlugins(path=tuple(dict.fromkeys((str(bin_dir), *PATH))), node=node)
        self._cache = cache or ResultCache()

    def attach(self, sandbox: Sandbox, attached: Attached) -> Attached:
        """Make the interface; returns with what was given. Raises EngineError in Docker's words, and then nothing is left."""
        chain = self._chain(attached)
        try:
            told = chain.add(_attachment(sandbox, attached))
            result = decode_result(told, chain.network.version)
        except (CniError, CacheError) as error:
            raise _translated(error, sandbox, attached) from error
        return msgspec.structs.replace(attached, settings=given(attached, result))

    def detach(self, sandbox: Sandbox, attached: Attached) -> bool:
        """Take the interface away, if it is there; what fails is logged, and false returned."""
        try:
            self._chain(attached).delete(_attachment(sandbox, attached))
        except (CniError, CacheError) as error:
            log.warning("not detached", container=sandbox.short_id, network=attached.network, why=error)
            return False
        return True

    def reconcile(self) -> None:
        """Let go of what is held for namespaces that are gone; what fails is logged."""
        try:
            self._plugins.node.reconcile()
        except FlanneldError as error:
            log.warning("node not reconciled", why=error)

    def publish(self, sandbox: Sandbox, attached: Attached, ports: Published) -> None:
        """Have these ports of the host, and no others, lead to the container by this interface; raises EngineError."""
        chain = self._chain(attached)
        plugin = next((each for each in chain.network.plugins if each.type == PORTMAP), None)
        if plugin is None:
            return
        attachment = replace(_attachment(sandbox, attached), capabilities={MAPPINGS: mappings(ports)})
        try:
            known = self._cache.read(attachment.key(chain.network.name))
            request = make_request(chain.network, plugin, attachment, known.result if known else None)
            self._plugins.call(plugin.type, Command.ADD, request, attachment.variables())
        except (CniError, CacheError) as error:
            raise _translated(error, sandbox, attached) from error

    def _chain(self, attached: Attached) -> Chain:
        return Chain(_conflist(attached.config), self._plugins, self._cache)


@lru_cache(maxsize=64)
def _conflist(text: str) -> Conflist:
    """Parsed once for all containers of a network that ask for nothing of their own."""
    return parse_conflist(text.encode())


def _attachment(sandbox: Sandbox, attached: Attached) -> Attachment:
    return Attachment(sandbox.id, sandbox.netns, attached.ifname, attached.args, attached.capabilities)


def mappings(ports: Published) -> list[dict[str, Any]]:
    """Published ports as the capability `portMappings` has them."""
    return [
        {"containerPort": parse_port(text)[0], "protocol": parse_port(text)[2], "hostPort": int(place.host_port)}
        | ({} if place.host_ip == ANYWHERE[4] else {"hostIP": place.host_ip})
        for text, places in ports.items()
        for place in places
        if place.host_ip != ANYWHERE[6]  # without an address a mapping is for both families
    ]


def capabilities(settings: EndpointSettings, ports: Published) -> dict[str, object]:
    """What is asked for, as plugins that declare it are told it."""
    config = settings.ipam_config
    told = {name: _json(text) for name, text in settings.driver_opts.items()}
    ips = [] if config is None else [text for text in (config.ipv4_address, config.ipv6_address) if text]
    asked: Mapping[str, object] = {"ips": ips, "mac": settings.mac_address, MAPPINGS: mappings(ports)}
    return told | {name: value for name, value in asked.items() if value}


def _json(text: str) -> object:
    """A driver option: of a CNI network a capability of its plugins, whose arguments are JSON."""
    try:
        value: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value


def given(attached: Attached, result: Result) -> EndpointSettings:
    """What the container has got by an attachment, with what it had asked for."""
    places = [place for place, each in enumerate(result.interfaces) if each.sandbox and each.name == attached.ifname]
    mac = next((result.interfaces[place].mac for place in places), "")
    ours = [ip for ip in result.ips if ip.interface is None or ip.interface in places]
    first = {version: next((ip for ip in ours if ip.address.version == version), None) for version in (4, 6)}
    four, six = first[4], first[6]
    return msgspec.structs.replace(
        attached.settings,
        mac_address=mac or attached.settings.mac_address,
        ip_address=str(four.address.ip) if four else "",
        ip_prefix_len=four.address.network.prefixlen if four else 0,
        gateway=_gateway(attached, result, 4),
        global_ipv6_address=str(six.address.ip) if six else "",
        global_ipv6_prefix_len=six.address.network.prefixlen if six else 0,
        ipv6_gateway=_gateway(attached, result, 6),
    )


def _gateway(attached: Attached, result: Result, family: int) -> str:
    """By whom everything else could leave: of a bridge of ours its address, elsewhere as a default route says."""
    if attached.internal:
        return ""
    told = [str(ip.gateway) for ip in result.ips if ip.address.version == family and ip.gateway]
    if attached.driver == "cni":
        default = [route for route in result.routes if route.dst.version == family and route.dst.prefixlen == 0]
        told = [str(default[0].gw) if default[0].gw else (*told, "")[0]] if default else []
    return told[0] if told else ""


def _translated(error: CniError | CacheError, sandbox: Sandbox, attached: Attached) -> EngineError:
    """In Docker's words, where it has some."""
    text = str(error)
    plugin = error.plugin if isinstance(error, PluginError) else ""
    if "is not available in range set" in text or "is subnet's gateway" in text:
        return Forbidden("failed to set up container networking: Address already in use")
    if "no IP addresses available" in text:
        network = f"{attached.network} ({attached.network_id[:12]})"
        return Unavailable(f"no available addresses on this network's address pools: {network}")
    if plugin == PORTMAP:
        why = f"port is already allocated: {text}" if getattr(error, "code", 0) == Code.TRY_LATER else text
        return external_connectivity(sandbox, attached, why)
    return EngineError(f"failed to create endpoint {sandbox.name} on network {attached.network}: {text}")


def external_connectivity(sandbox: Sandbox, attached: Attached, why: str) -> EngineError:
    """Ports of the host cannot lead to a container."""
    endpoint = f"{sandbox.name} ({attached.settings.endpoint_id or sandbox.id})"
    return EngineError(
        f"failed to set up container networking: driver failed programming external connectivity on endpoint {endpoint}: {why}"
    )


def kubernetes_args(labels: Mapping[str, str], sandbox_id: str = "") -> dict[str, str]:
    """CNI_ARGS of a pod, as its kubelet's runtime gives them; nothing for others."""
    known: Iterable[tuple[str, str]] = (
        ("K8S_POD_NAMESPACE", "io.kubernetes.pod.namespace"),
        ("K8S_POD_NAME", "io.kubernetes.pod.name"),
        ("K8S_POD_UID", "io.kubernetes.pod.uid"),
    )
    found = {name: labels[label] for name, label in known if labels.get(label)}
    infra = {"K8S_POD_INFRA_CONTAINER_ID": sandbox_id} if sandbox_id else {}
    return {"IgnoreUnknown": "1", **found, **infra} if found else {}
