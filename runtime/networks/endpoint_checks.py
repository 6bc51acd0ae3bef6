"""Whether what a container asks of its networks makes sense, in Docker's words; must not know what containers there are."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runtime.config import EndpointSettings
from runtime.errors import Forbidden, InvalidParameter
from runtime.networks.addresses import address_errors, requested_addresses
from runtime.networks.network import BRIDGE, CONTAINER, HOST, NONE, Network

MAC = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}")


def check_endpoint(network: Network, settings: EndpointSettings) -> None:
    """Raise InvalidParameter with all that is wrong with what is asked of one network."""
    wrong = []
    if network.is_predefined:
        if requested_addresses(settings):
            wrong.append("user specified IP address is supported on user defined networks only")
        if settings.aliases and network.name == BRIDGE:
            wrong.append("network-scoped alias is supported only for containers in user defined networks")
    else:
        wrong += address_errors(network, settings)
    if settings.mac_address and not MAC.fullmatch(settings.mac_address):
        wrong.append(f"invalid MAC address: {settings.mac_address}")
    if wrong:
        listed = wrong[0] if len(wrong) == 1 else "* " + "\n* ".join(wrong)
        raise InvalidParameter(f"invalid config for network {network.name}: invalid endpoint settings:\n{listed}")


def check_mode(mode: str) -> None:
    """Raise Forbidden if a container of that network mode cannot come into other networks while it runs."""
    if mode == NONE:
        raise Forbidden("container cannot be connected to multiple networks with one of the networks in private (none) mode")
    if mode == HOST:
        raise Forbidden("container cannot be disconnected from host network or connected to host network")
    if mode.startswith(CONTAINER):
        raise Forbidden(
            "container sharing network namespace with another container or host cannot be connected to any other network"
        )


def check_endpoints(asked: Mapping[str, tuple[Network, EndpointSettings]]) -> None:
    """The same of all networks of a container; raises InvalidParameter."""
    if len(asked) > 1:
        names = {network.name for network, _ in asked.values()}
        if NONE in names:
            raise InvalidParameter(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
        if HOST in names:
            raise InvalidParameter("container cannot be connected to host network and another network at once")
    for network, settings in asked.values():
        check_endpoint(network, settings)
