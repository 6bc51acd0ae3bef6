"""The plugin `firewall`: the host lets the pod's connections pass, and an ingress policy says which pods reach it; chained only.

Its result is the one before. All is elements of sets in our packet filter tables, and where there is iptables, one rule for all.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from cni import iptables_forward
from cni.ledger import HeldElement, Key
from cni.node import Node
from cni.packet_elements import bridge_apart, isolate_port, pass_forwarding
from cni.plugin import Request
from cni.result import Result
from cni.spec import IFNAME_BYTES, CniError, Code
from flanneld.lease import FAMILIES, Family

ADMIN_CHAIN = "CNI-ADMIN"
CHAIN_NAME = re.compile(r"[^\s\"\\!-][^\s\"\\]{0,27}")
"""What iptables takes for one, and its restore format for one word."""
POLICIES = ("open", "same-bridge", "isolated")


@dataclass(frozen=True, slots=True)
class Firewall:
    """The plugin's configuration."""

    policy: str
    """Of POLICIES."""
    admin_chain: str
    """A chain of iptables that is asked before ours, where there is iptables."""


def parse(request: Request) -> Firewall:
    """Read the configuration; raises CniError (2, 7)."""
    told = request.config
    if told.choice("backend", "", "iptables", "nftables", "firewalld") == "firewalld":
        raise CniError(
            Code.UNSUPPORTED_FIELD, 'unsupported field backend "firewalld"', "expected none: pods pass by rules of nftables"
        )
    if told.text("firewalldZone"):
        raise CniError(Code.UNSUPPORTED_FIELD, "unsupported field firewalldZone", "expected none: zones are firewalld's")
    policy = told.text("ingressPolicy") or POLICIES[0]
    if policy not in POLICIES:
        raise CniError(Code.INVALID_CONFIG, f"unknown ingress policy: {policy!r}", f"expected one of {', '.join(POLICIES)}")
    chain = told.text("iptablesAdminChainName", ADMIN_CHAIN)
    if not CHAIN_NAME.fullmatch(chain):
        told.wrong("iptablesAdminChainName", chain, "a chain's name, 28 characters at most, without white space")
    request.finish_config()
    return Firewall(policy, chain)


def elements_for(config: Firewall, result: Result) -> tuple[HeldElement, ...]:
    """What the packet filter has to know; raises CniError (7) when a policy has no bridge to be about."""
    elements = [pass_forwarding(ip.address.ip) for ip in result.ips]
    if config.policy != "open":
        on_host = [interface.name for interface in result.interfaces if not interface.sandbox]
        if not on_host:
            details = 'make sure to chain "firewall" plugin with "bridge"'
            raise CniError(Code.INVALID_CONFIG, f'interface needs to be set for ingress policy "{config.policy}"', details)
        for name in on_host:
            if len(name.encode(errors="replace")) > IFNAME_BYTES or "\0" in name:
                raise CniError(Code.INVALID_CONFIG, f"prevResult: got interface {name!r}, expected {IFNAME_BYTES} bytes at most")
        bridge, *ports = on_host  # as plugin `bridge` tells them
        elements += bridge_apart(bridge, within=config.policy == "same-bridge")
        elements += [isolate_port(port) for port in ports if config.policy == "isolated"]
    return tuple(dict.fromkeys(elements))


def add(request: Request, node: Node) -> Result:
    """Let the pod's connections pass; a second ADD changes nothing."""
    config = parse(request)
    result = request.require_prev_result()
    elements = elements_for(config, result)
    former = node.ledger.record(request.key, request.plugin)
    if former is not None and set(former.elements) - set(elements):
        node.release(former)
    if elements:
        record = node.hold(request, *elements)
        try:
            node.table.put(elements)
            with node.table.netfilter() as nft:
                for family in _families(result):
                    iptables_forward.open_forward(nft, family, config.admin_chain)
        except BaseException:
            node.release(record)
            raise
    return result


def _families(result: Result) -> list[Family]:
    return [family for family in FAMILIES if any(ip.address.version == family for ip in result.ips)]


def delete(request: Request, node: Node) -> None:
    """Take the pod's elements away, and with the last pod's what iptables had for all."""
    if node.ledger.record(request.key, request.plugin) is not None:
        node.release_of(request.key, request.plugin)
        _tidy(request, node)


def _tidy(request: Request, node: Node) -> None:
    """Without a race: a pod that comes now has written itself down before it waits for the packet table's socket."""
    with node.table.netfilter() as nft:
        if not any(record.plugin == request.plugin for record in node.ledger.records()):
            for family in iptables_forward.PROGRAM:
                iptables_forward.close_forward(nft, family)


def check(request: Request, node: Node) -> None:
    """Raise CniError unless the pod's connections pass."""
    config = parse(request)
    result = request.require_prev_result()
    if missing := node.table.missing(elements_for(config, result)):
        raise CniError(Code.FAILED, "packet filter elements are gone", ", ".join(f"{each.key} of {each.set}" for each in missing))
    with node.table.netfilter() as nft:
        shut = [family for family in _families(result) if not iptables_forward.is_open(nft, family, config.admin_chain)]
    if shut:
        raise CniError(Code.FAILED, f"the rules of {iptables_forward.PROGRAM[shut[0]]} that let pods pass are gone")


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Take away what no valid attachment has."""
    if any(record.plugin == request.plugin for record in node.ledger.records(request.network)):
        node.release_invalid(request, valid)
        _tidy(request, node)


def status(request: Request, node: Node) -> None:
    """Raise CniError (50) if there can be no packet filter."""
    parse(request)
    node.table.probe()
