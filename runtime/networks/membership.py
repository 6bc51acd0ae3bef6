"""Who is in which network now, asked by whoever wants to know; must not know how anybody got there."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from runtime.config import EndpointSettings
from runtime.errors import Forbidden
from runtime.events import Events
from runtime.networks.names import own_names
from runtime.networks.network import Network
from runtime.networks.sandbox import Attached, Sandbox


class Membership:
    """All sandboxes of an engine, those on their way in or out too."""

    def __init__(self, events: Events) -> None:
        self.sandboxes: dict[str, Sandbox] = {}
        """By container's id."""
        self._events = events

    def members(self, network: Network) -> dict[str, EndpointSettings]:
        """Who is in a network, by container's id."""
        return {
            sandbox.id: shown(sandbox, attached)
            for sandbox in self.sandboxes.values()
            if (attached := sandbox.in_network(network.id)) is not None
        }

    def refuse_in_use(self, network: Network) -> None:
        """Raise Forbidden while somebody is in the network."""
        users = [sandbox for sandbox in self.sandboxes.values() if sandbox.in_network(network.id) is not None]
        if users:
            told = ", ".join(f'name:"{user.name}" id:"{user.short_id}"' for user in users)
            raise Forbidden(f"error while removing network: network {network.name} has active endpoints ({told})")

    def renamed(self, container_id: str, name: str) -> None:
        """A container has another name, and answers to it from now on."""
        if container_id in self.sandboxes:
            self.sandboxes[container_id] = msgspec.structs.replace(self.sandboxes[container_id], name=name)

    def tell(self, action: str, sandbox: Sandbox, attached: Iterable[Attached]) -> None:
        """Events of the networks that a container has come into or left."""
        for each in attached:
            facts = {"container": sandbox.id, "name": each.network, "type": each.driver}
            self._events.tell("network", action, each.network_id, facts)


def shown(sandbox: Sandbox, attached: Attached) -> EndpointSettings:
    """An endpoint as inspect tells of it."""
    names = own_names(sandbox, attached) if attached.has_names else ()
    return msgspec.structs.replace(attached.settings, dns_names=names)
