"""Which packets of pods are masqueraded and which are let through, as rules that are values; must not know any firewall or socket.

The rules are those of Go flannel's iptables mode, in its order; both firewalls in `firewall/` render the same ones. A packet leaves
a chain at the first rule that matches it: RETURN hands it on to the next chain of its hook, the other verdicts settle it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_network
from typing import Protocol

from flanneld import FlanneldError
from flanneld.lease import Family, IPNetwork, Subnets, family_of

KUBE_PROXY_MARK = 0x4000
"""kube-proxy sets this bit on packets that it masquerades itself; a second source NAT would break them."""

MULTICAST = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}


class FirewallError(FlanneldError):
    """The rules could not be read or written now; the same call may succeed later."""


class FirewallMissing(FirewallError):
    """This host cannot run this kind of firewall: a library, a program or the kernel's part is missing."""


class Verdict(Enum):
    """What becomes of a packet that a rule matches."""

    RETURN = auto()
    ACCEPT = auto()
    MASQUERADE = auto()
    MASQUERADE_FULLY_RANDOM = auto()
    """With source ports drawn at random, or two connections that start at once race for one port and lose packets."""


class Chain(Enum):
    """Where a rule works; the value is the comment that marks it as ours, in flannel's words."""

    POSTROUTING = "flanneld masq"
    FORWARD = "flanneld forward"


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a packet: an address inside `network`, or one outside of it."""

    network: IPNetwork
    inside: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets that meet every condition given get the verdict."""

    verdict: Verdict
    source: Side | None = None
    destination: Side | None = None
    mark: int = 0
    """Bits that must all be set in the packet's mark."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules of one address family, in order."""

    family: Family
    postrouting: tuple[Rule, ...] = ()
    forward: tuple[Rule, ...] = ()

    @property
    def chains(self) -> tuple[tuple[Chain, tuple[Rule, ...]], ...]:
        """Every chain with its rules, empty ones too."""
        return ((Chain.POSTROUTING, self.postrouting), (Chain.FORWARD, self.forward))


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user asked for."""

    masquerade: bool = False
    """`--ip-masq`."""
    forward: bool = True
    """`--iptables-forward-rules`."""
    fully_random: bool = True
    """Not `--ip-masq-fully-random-disable`."""


class Firewall(Protocol):
    """One kind of firewall. One task calls it; calls do not overlap."""

    async def apply(self, rules: Sequence[RuleSet]) -> bool:
        """Bring our chains to exactly `rules`, each table in one step; True if something was amiss. The same again does nothing.

        A family without a rule set loses our chains. Nothing else in the firewall is touched. Raises FirewallError.
        """

    async def pending(self, rules: Sequence[RuleSet]) -> tuple[str, ...]:
        """What `apply` would do, in words; nothing when all is as it should be. Changes nothing. Raises FirewallError."""

    async def clear(self) -> None:
        """Remove our chains, Go flannel's of the same name too; nothing happens when there are none. Raises FirewallError."""

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield at once and after somebody, we too, touched our chains: a reason to call `apply`. Never ends; bursts are one.

        iptables-legacy tells nobody, so a timer has to call `apply` beside this.
        """


def plan(networks: Iterable[IPNetwork], own: Subnets, policy: Policy) -> tuple[RuleSet, ...]:
    """The rules for a host that leased `own`, one subnet in each of the pod networks and in their order."""
    return tuple(_rule_set(network, subnet, policy) for network, subnet in zip(networks, own, strict=True))


def _rule_set(network: IPNetwork, own: IPNetwork, policy: Policy) -> RuleSet:
    masquerade = Verdict.MASQUERADE_FULLY_RANDOM if policy.fully_random else Verdict.MASQUERADE
    return RuleSet(
        family_of(network),
        postrouting=_postrouting(network, own, masquerade) if policy.masquerade else (),
        forward=_forward(network) if policy.forward else (),
    )


def _postrouting(network: IPNetwork, own: IPNetwork, masquerade: Verdict) -> tuple[Rule, ...]:
    pods, our_pods = Side(network), Side(own)
    others = Side(network, inside=False)
    unicast = Side(MULTICAST[network.version], inside=False)
    return (
        Rule(Verdict.RETURN, mark=KUBE_PROXY_MARK),
        Rule(Verdict.RETURN, source=our_pods, destination=pods),
        Rule(Verdict.RETURN, source=pods, destination=our_pods),
        # From outside to a pod here: the reply passes this host anyway, so the pod may see who called.
        Rule(Verdict.RETURN, source=others, destination=our_pods),
        Rule(masquerade, source=pods, destination=unicast),
        # From outside to a pod elsewhere: the reply must come back through this host, where the connection began.
        Rule(masquerade, source=others, destination=pods),
    )


def _forward(network: IPNetwork) -> tuple[Rule, ...]:
    return (Rule(Verdict.ACCEPT, source=Side(network)), Rule(Verdict.ACCEPT, destination=Side(network)))
