"""Firewall rules: ours are there, none of the other kind are left, and nobody else drops what pods forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flanneld.firewall import open_firewall
from flanneld.firewall.iptables import IptablesFirewall
from flanneld.firewall.nftables import NftablesFirewall
from flanneld.lease import IPNetwork
from flanneld.linux.message import Message, attributes, string
from flanneld.linux.netlink import Netlink
from flanneld.linux.nft import NETLINK_NETFILTER, NFGENMSG_SIZE, NFNL_SUBSYS_NFTABLES, NFTA_TABLE
from flanneld.masquerade import FirewallMissing, RuleSet
from tartan.checks.finding import Finding, error, ok, warning
from tartan.leftovers.rules import OUR_CHAIN, programs, saved_tables

NFT_MSG_GETCHAIN = 4
NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_HOOK_HOOKNUM = 3, 4, 5, 1
"""linux/netfilter/nf_tables.h."""
NF_INET_FORWARD, NF_DROP = 2, 0
FAMILY_WORDS = {1: "inet", 2: "ip", 10: "ip6"}
CNI_CHAINS = ("TARTAN-CNI", "CNI-FORWARD")
"""The firewall plugins' chains: they accept what is for pods."""


@dataclass(frozen=True, slots=True)
class BaseChain:
    """A chain of nftables that drops whatever no rule of it accepts."""

    family: str
    table: str
    name: str


async def check_ours(rules: Sequence[RuleSet], remedy: str, *, nftables: bool, instance: str) -> list[Finding]:
    """Raises FirewallError when they cannot be read."""
    firewall = open_firewall(nftables, instance)
    iptables = isinstance(firewall, IptablesFirewall)
    kind, shown_by = ("iptables", "iptables-save") if iptables else ("nftables", "nft list ruleset")
    found = [
        error("rules", f"not as they should be; flanneld would do this: {line}", shown_by, remedy)
        for line in await firewall.pending(rules)
    ]
    return [*(found or [ok("rules", f"{kind} has all of ours")]), *await _of_the_other_kind(iptables=iptables, instance=instance)]


async def _of_the_other_kind(*, iptables: bool, instance: str) -> list[Finding]:
    try:
        other = NftablesFirewall(instance) if iptables else IptablesFirewall(instance)
        left = await other.pending(())
    except FirewallMissing:
        return []
    shown_by = "nft list ruleset" if iptables else "iptables-save"
    remedy = "restart flanneld: it removes them at its start"
    return [warning("rules", f"left from another kind of firewall: {' '.join(left)}", shown_by, remedy)] if left else []


def saved_filters() -> dict[str, list[str]]:
    """By iptables program, what is in its filter table; raises FirewallError."""
    return {program: saved_tables(program).get("filter", []) for program in programs()}


def dropping_chains() -> list[BaseChain]:
    """Those at the forward hook; raises KernelError."""
    with Netlink(NETLINK_NETFILTER) as nl:
        return list(decode_chains(nl.dump(Message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, bytes(NFGENMSG_SIZE)))))


def decode_chains(messages: Iterable[Message]) -> list[BaseChain]:
    """The base chains among the kernel's answers that are at the forward hook of IP and have the policy drop."""
    found = []
    for message in messages:
        said = attributes(message.body, NFGENMSG_SIZE)
        hook = attributes(said.get(NFTA_CHAIN_HOOK, b"")).get(NFTA_HOOK_HOOKNUM, b"")
        forward = int.from_bytes(hook, "big") == NF_INET_FORWARD and bool(hook)
        policy = said.get(NFTA_CHAIN_POLICY, b"\1")
        family = FAMILY_WORDS.get(message.body[0])
        if family and forward and int.from_bytes(policy, "big") == NF_DROP:
            found.append(BaseChain(family, string(said.get(NFTA_TABLE)), string(said.get(NFTA_CHAIN_NAME))))
    return found


def check_foreign_chains(chains: Iterable[BaseChain]) -> list[Finding]:
    """Another program's table that drops what it does not know; what our table accepts it may still drop (nft(8))."""
    return [
        warning(
            "rules",
            f"chain {chain.name} of table {chain.family} {chain.table} drops what none of its own rules accepts",
            f"nft list chain {chain.family} {chain.table} {chain.name}",
            "have that program let the pod network pass (firewalld: put cni0 and flannel's devices into the zone `trusted`)",
        )
        for chain in chains
        if (chain.table, chain.name) != ("filter", "FORWARD")  # iptables' own, of which check_forward knows more
    ]


def check_forward(program: str, saved: Sequence[str], networks: Sequence[IPNetwork]) -> list[Finding]:
    """What iptables' FORWARD does to pods' packets before, or without, our chain."""
    rules = [line for line in saved if line.startswith("-A FORWARD ")]
    ours = next((place for place, line in enumerate(rules) if OUR_CHAIN.fullmatch(line.split()[-1])), None)
    shown_by = f"{program} -S FORWARD"
    family = 6 if program.startswith("ip6") else 4
    mine = [str(network) for network in networks if network.version == family]
    before = rules if ours is None else rules[:ours]
    found = [
        warning("rules", f"{program} drops packets before our rules: {line}", shown_by, f"{program} -D{line.removeprefix('-A')}")
        for line in before
        if line.split(" -j ")[-1].split(" ")[0] in ("DROP", "REJECT")
    ]
    drops = any(line.startswith(":FORWARD DROP") for line in saved)
    let_pass = ours is not None or any(word in line for line in rules for word in (*mine, *CNI_CHAINS))
    if mine and drops and not let_pass:
        why = f"{program}: the policy of FORWARD is DROP, and no rule of it accepts {' '.join(mine)}"
        remedy = f"{program} -I FORWARD -s {mine[0]} -j ACCEPT; {program} -I FORWARD -d {mine[0]} -j ACCEPT"
        found.append(error("rules", why, shown_by, f"{remedy}; or unset EnableNFTables in the network config"))
    return found
