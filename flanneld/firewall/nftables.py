"""Programs the rules as nftables tables of our own, `ip flannel-ipv4`, `ip6 flannel-ipv6`; must not know why the rules are wanted.

Names of tables and chains are Go flannel's, so that either daemon takes over what the other left. What `forward` accepts, another
table may still drop (nft(8): accept ends one base chain only): those rules open nothing, they say what is expected to pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from flanneld.lease import FAMILIES, Family
from flanneld.linux.nft import Command, Nft, NftChange, NftError, NftMissing, Object, nft_changes
from flanneld.masquerade import Chain, FirewallError, FirewallMissing, Rule, RuleSet, Side, Verdict

PROTOCOL: dict[Family, str] = {4: "ip", 6: "ip6"}
"""nftables' word for the family of a table and for the header that an address is in."""

BASE_CHAINS: dict[Chain, Command] = {
    Chain.POSTROUTING: {"name": "postrtg", "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
    Chain.FORWARD: {"name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"},
}
VERDICTS: dict[Verdict, Command] = {
    Verdict.RETURN: {"return": None},
    Verdict.ACCEPT: {"accept": None},
    Verdict.MASQUERADE: {"masquerade": None},
    Verdict.MASQUERADE_FULLY_RANDOM: {"masquerade": {"flags": "fully-random"}},
}


class NftablesFirewall:
    """`masquerade.Firewall` on nftables."""

    def __init__(self, instance: str = "") -> None:
        """`instance` keeps the tables of several daemons on one host apart. Raises FirewallMissing."""
        try:
            self._nft = Nft()
        except NftMissing as error:
            raise FirewallMissing(str(error)) from error
        self._tables = {family: f"flannel-ipv{family}" + (f"-{instance}" if instance else "") for family in FAMILIES}

    async def apply(self, rules: Sequence[RuleSet]) -> bool:
        try:
            return await asyncio.to_thread(self._repair, rules)
        except NftError as error:
            raise FirewallError(f"nftables refused the rules in {' and '.join(self._tables.values())}: {error}") from error

    async def pending(self, rules: Sequence[RuleSet]) -> tuple[str, ...]:
        try:
            differing = await asyncio.to_thread(self._differing, rules)
        except NftError as error:
            raise FirewallError(f"nftables cannot be read: {error}") from error
        return tuple(
            f"nftables table {PROTOCOL[family]} {self._tables[family]}: {'replace' if objects else 'remove'}"
            for family, objects in differing.items()
        )

    async def clear(self) -> None:
        await self.apply(())

    def changes(self) -> AsyncGenerator[None, None]:
        return nft_changes(self._concerns_us)

    def _concerns_us(self, change: NftChange) -> bool:
        return change.table == self._tables[change.family]

    def _repair(self, rules: Sequence[RuleSet]) -> bool:
        commands: list[Command] = []
        for family, objects in self._differing(rules).items():
            commands += _replace({"table": {"family": PROTOCOL[family], "name": self._tables[family]}}, objects)
        if commands:
            self._nft.run(commands)
        return bool(commands)

    def _differing(self, rules: Sequence[RuleSet]) -> dict[Family, list[Object]]:
        """The tables that are not as they should be, as they should be."""
        wanted: dict[Family, list[Object]] = {family: [] for family in FAMILIES}
        wanted |= {rule_set.family: render_table(self._tables[rule_set.family], rule_set) for rule_set in rules}
        return {family: objects for family, objects in wanted.items() if self._present(family) != _comparable(objects)}

    def _present(self, family: Family) -> list[Object] | None:
        """What is in our table now, made comparable; nothing when there is none, None when it is not as we make it."""
        flags = self._nft.table_flags(family, self._tables[family])
        if flags is None:
            return []
        if flags:  # dormant, or another program's alone
            return None
        return _comparable(self._nft.run([{"list": {"table": {"family": PROTOCOL[family], "name": self._tables[family]}}}]))


def render_table(table: str, rule_set: RuleSet) -> list[Object]:
    """The table with its chains and rules, each rule in its place; nothing at all when there is no rule."""
    family = PROTOCOL[rule_set.family]
    place = {"family": family, "table": table}
    objects: list[Object] = []
    for chain, rules in rule_set.chains:
        base = BASE_CHAINS[chain]
        if rules:
            objects.append({"chain": {**place, **base}})
            objects += [
                {"rule": {**place, "chain": base["name"], "comment": chain.value, "expr": _render(family, rule)}} for rule in rules
            ]
    return [{"table": {"family": family, "name": table}}, *objects] if objects else []


def _render(family: str, rule: Rule) -> list[Command]:
    expression: list[Command] = []
    if rule.mark:
        expression.append(_match("==", {"&": [{"meta": {"key": "mark"}}, rule.mark]}, rule.mark))
    if rule.source:
        expression.append(_match_address(family, "saddr", rule.source))
    if rule.destination:
        expression.append(_match_address(family, "daddr", rule.destination))
    return [*expression, VERDICTS[rule.verdict]]


def _match_address(family: str, field: str, side: Side) -> Command:
    prefix = {"prefix": {"addr": str(side.network.network_address), "len": side.network.prefixlen}}
    return _match("==" if side.inside else "!=", {"payload": {"protocol": family, "field": field}}, prefix)


def _match(operator: str, left: Command, right: object) -> Command:
    return {"match": {"op": operator, "left": left, "right": right}}


def _replace(table: Object, objects: Sequence[Object]) -> list[Command]:
    """One transaction that leaves `objects` and nothing else in the table: no packet meets it half full.

    Added first, so that deleting succeeds when somebody else was quicker.
    """
    return [{"add": table}, {"delete": table}, *({"add": item} for item in objects)]


def _comparable(objects: Iterable[Object]) -> list[Object]:
    """Without what the kernel numbers, and in one order: releases of libnftables list chains and rules in different ones."""
    stripped: list[Object] = [{kind: _bare(properties)} for item in objects for kind, properties in item.items()]
    return sorted(stripped, key=_place)


def _bare(properties: Mapping[str, object]) -> Mapping[str, object]:
    return {key: _unwrap(value) for key, value in properties.items() if key != "handle"}


def _place(item: Object) -> tuple[str, str]:
    """Kind and chain: a stable sort by it keeps the rules of a chain in order."""
    (kind, properties), *_ = item.items()
    return kind, str(properties.get("chain", properties.get("name")))


def _unwrap(value: object) -> object:
    """A list of one as its element: whether `flags` with one flag is a list depends on libnftables' release."""
    if isinstance(value, Mapping):
        return {key: _unwrap(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return _unwrap(value[0]) if len(value) == 1 else [_unwrap(inner) for inner in value]
    return value
