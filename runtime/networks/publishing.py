"""Ports of the host held for a container that is about to be attached; must not know how they are made to lead there."""

from __future__ import annotations

import msgspec

from runtime.containers.record import Record
from runtime.errors import EngineError
from runtime.networks.attach import capabilities, external_connectivity
from runtime.networks.network import OPTION, Network
from runtime.networks.plans import publisher, with_attached
from runtime.networks.ports import ANYWHERE, Ports, wanted_ports
from runtime.networks.registry import Registry
from runtime.networks.sandbox import Sandbox


def with_ports(record: Record, sandbox: Sandbox, ports: Ports, registry: Registry) -> Sandbox:
    """Hold what the record wants to be published, and have the attachment by which it leads say so; raises EngineError."""
    chosen = publisher(sandbox.attached)
    if chosen is None:
        return sandbox
    network, host = registry.find(chosen.network_id).network, record.host
    wanted = wanted_ports(host.port_bindings, record.config.exposed_ports, host.publish_all_ports, _default_address(network))
    try:
        taken = ports.take(record.id, wanted, (4, 6) if network.enable_ipv6 else (4,))
    except EngineError as error:
        raise external_connectivity(sandbox, chosen, str(error)) from error
    if not taken:
        return sandbox
    told = msgspec.structs.replace(chosen, capabilities=capabilities(chosen.settings, taken))
    return msgspec.structs.replace(with_attached(sandbox, told), ports=taken, published_by=chosen.ifname)


def _default_address(network: Network) -> str:
    """Where ports are published that do not say where."""
    address = network.options.get(f"{OPTION}.bridge.host_binding_ipv4", "")
    return "" if address in ANYWHERE.values() else address
