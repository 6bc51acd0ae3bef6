"""What a container is told of its networks: addresses, ports, its /etc/hosts and /etc/resolv.conf; must not know plumbing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from runtime.config import EndpointSettings
from runtime.containers.record import Record
from runtime.errors import EngineError
from runtime.networks import etc_files
from runtime.networks.membership import Membership, shown
from runtime.networks.names import split_link
from runtime.networks.network import BRIDGE, HOST, NONE, Joined
from runtime.networks.ports import all_ports
from runtime.networks.registry import Registry
from runtime.networks.sandbox import Attached, Sandbox


class Briefing:
    """For all containers of an engine."""

    def __init__(self, registry: Registry, membership: Membership, servers: Sequence[str]) -> None:
        """`servers`: for containers that name none; empty: the host's."""
        self._registry = registry
        self._membership = membership
        self._servers = tuple(servers)

    async def joined(self, record: Record, sandbox: Sandbox) -> Joined:
        """All of it, as things are now; raises EngineError for a link to who does not run."""
        mode = record.host.network_mode
        endpoints = {attached.network: shown(sandbox, attached) for attached in sandbox.attached}
        if mode in (HOST, NONE):
            network = self._registry.find(mode).network
            endpoints = {mode: EndpointSettings(network_id=network.id, endpoint_id=secrets.token_hex(32))}
        return Joined(
            netns=sandbox.netns,
            endpoints=endpoints,
            ports=all_ports(record.config.exposed_ports, sandbox.ports) if sandbox.attached else {},
            etc_hosts=self._hosts(record, sandbox, await self._host_gateways(record)),
            resolv_conf=self._resolver(record, sandbox),
            hostname=sandbox.hostname,
        )

    def upstream(self, record: Record) -> tuple[str, ...]:
        """Whom the engine asks for others' names, for this container."""
        return etc_files.upstream_servers(etc_files.host_resolver(), self._servers_of(record))

    def _servers_of(self, record: Record) -> tuple[str, ...]:
        return record.host.dns or self._servers

    async def _host_gateways(self, record: Record) -> list[str]:
        """What `host-gateway` means, if anybody says so: then the default bridge has to be there."""
        if not any(text.endswith(f":{etc_files.HOST_GATEWAY}") for text in record.host.extra_hosts):
            return []
        network = self._registry.find(BRIDGE).network
        await self._registry.ready(network)
        return [pool.gateway for pool in network.pools]

    def _hosts(self, record: Record, sandbox: Sandbox, gateways: Sequence[str]) -> str:
        extra = etc_files.extra_hosts(record.host.extra_hosts, gateways)
        if sandbox.netns == HOST:
            return etc_files.render_hosts((), extra, etc_files.host_text(etc_files.HOSTS) or etc_files.LOCALHOST)
        words = etc_files.own_words(sandbox.hostname, record.config.domainname)
        own = [
            (address, words)
            for attached in sandbox.attached
            for address in (attached.settings.ip_address, attached.settings.global_ipv6_address)
            if address
        ]
        linked = [line for attached in sandbox.attached for line in self._linked(sandbox, attached)]
        return etc_files.render_hosts([*own, *linked], extra)

    def _linked(self, sandbox: Sandbox, mine: Attached) -> list[tuple[str, tuple[str, ...]]]:
        """Those whom it has links to in the default bridge; where containers have names, the engine's DNS knows links too."""
        lines = []
        for target, alias in map(split_link, sandbox.links if mine.network == BRIDGE else ()):
            everybody = self._membership.sandboxes.values()
            other = next((each for each in everybody if target in (each.name, each.id, each.short_id)), None)
            theirs = other.in_network(mine.network_id) if other else None
            if other is None or theirs is None or not theirs.settings.ip_address:
                raise EngineError(f"cannot link to a non running container: /{target} AS /{sandbox.name}/{alias}")
            lines.append((theirs.settings.ip_address, tuple(dict.fromkeys((alias, other.hostname, other.name)))))
        return lines

    def _resolver(self, record: Record, sandbox: Sandbox) -> str:
        host, servers = record.host, self._servers_of(record)
        if sandbox.netns == HOST and not (servers or host.dns_search or host.dns_options):
            return etc_files.host_text(etc_files.RESOLV_CONF)
        known = etc_files.host_resolver()
        if any(attached.has_names for attached in sandbox.attached):
            return etc_files.named_resolver(known, host.dns_search, host.dns_options).text()
        render = etc_files.host_mode_resolver if sandbox.netns == HOST else etc_files.container_resolver
        return render(known, servers, host.dns_search, host.dns_options).text()
