"""Programs the rules as Go flannel's chains in iptables and ip6tables, text for text; must not know why the rules are wanted.

Works with the legacy and the nf_tables variant of the programs. Each family is read by one iptables-save and repaired by one
iptables-restore, which takes a table in one step; the chains hold the position that their jump was first given.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property

from flanneld.lease import FAMILIES, Family
from flanneld.linux.nft import NftChange, NftMissing, nft_changes
from flanneld.masquerade import Chain, FirewallError, FirewallMissing, Rule, RuleSet, Side, Verdict

PROGRAM: dict[Family, str] = {4: "iptables", 6: "ip6tables"}
LOCK_WAIT_S = 5
"""How long iptables-restore waits for the lock that the legacy programs share."""
RANDOM_FULLY_SINCE = (1, 6, 2)
"""The first iptables release with `--random-fully`."""

TARGETS = {
    Verdict.RETURN: "RETURN",
    Verdict.ACCEPT: "ACCEPT",
    Verdict.MASQUERADE: "MASQUERADE",
    Verdict.MASQUERADE_FULLY_RANDOM: "MASQUERADE --random-fully",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of our chains hangs."""

    table: str
    base: str
    """The built-in chain that jumps to ours."""
    chain: str
    comment: str

    @property
    def jump(self) -> str:
        return f'-A {self.base} -m comment --comment "{self.comment}" -j {self.chain}'


class IptablesFirewall:
    """`masquerade.Firewall` on the iptables programs."""

    def __init__(self, instance: str = "") -> None:
        """`instance`, up to 12 letters, keeps the chains of several daemons on one host apart. Raises FirewallMissing."""
        for program in (f"{name}{suffix}" for name in PROGRAM.values() for suffix in ("", "-save", "-restore")):
            if shutil.which(program) is None:
                raise FirewallMissing(f"{program} is not installed (Debian package iptables)")
        suffix = f"-{instance}" if instance else ""
        self._places = {
            Chain.POSTROUTING: Place("nat", "POSTROUTING", f"FLANNEL-POSTRTG{suffix}", Chain.POSTROUTING.value),
            Chain.FORWARD: Place("filter", "FORWARD", f"FLANNEL-FWD{suffix}", Chain.FORWARD.value),
        }
        self._watched = {(place.table, chain) for place in self._places.values() for chain in ("", place.base, place.chain)}

    async def apply(self, rules: Sequence[RuleSet]) -> bool:
        return await asyncio.to_thread(self._repair, rules)

    async def pending(self, rules: Sequence[RuleSet]) -> tuple[str, ...]:
        repairs = await asyncio.to_thread(lambda: [(family, self._repairs(rule_set)) for family, rule_set in _by_family(rules)])
        return tuple(f"{PROGRAM[family]}: {line}" for family, lines in repairs for line in lines if line.startswith("-"))

    async def clear(self) -> None:
        await self.apply(())

    async def changes(self) -> AsyncGenerator[None, None]:
        try:
            async with aclosing(nft_changes(self._concerns_us)) as changes:
                async for _ in changes:
                    yield
        except NftMissing:  # then these are legacy tables, which tell nobody
            yield
            await asyncio.Event().wait()

    def _concerns_us(self, change: NftChange) -> bool:
        """Only what went: kube-proxy adds to these tables all day."""
        return change.gone and (change.table, change.chain) in self._watched

    def _repair(self, rules: Sequence[RuleSet]) -> bool:
        wanted = {rule_set.family for rule_set in rules}
        changed = False
        for family, rule_set in _by_family(rules):
            try:
                changed |= self._repair_family(rule_set)
            except FirewallError:
                if family in wanted:  # of a family that we do not use, a kernel without it is as good as one without our chains
                    raise
        return changed

    def _repair_family(self, rule_set: RuleSet) -> bool:
        repairs = self._repairs(rule_set)
        if repairs:
            _run(f"{PROGRAM[rule_set.family]}-restore", "--noflush", f"--wait={LOCK_WAIT_S}", given="\n".join(repairs))
        return bool(repairs)

    def _repairs(self, rule_set: RuleSet) -> list[str]:
        """What iptables-restore is to be told."""
        saved = parse_save(_run(f"{PROGRAM[rule_set.family]}-save"))
        repairs: list[str] = []
        for chain, rules in rule_set.chains:
            place = self._places[chain]
            lines = repair(saved.get(place.table, ()), place, [self._render(place, rule) for rule in rules])
            if lines:
                repairs += [f"*{place.table}", *lines, "COMMIT", ""]
        return repairs

    def _render(self, place: Place, rule: Rule) -> str:
        target = TARGETS[rule.verdict]
        return render_rule(place, rule, target if self._has_random_fully else target.removesuffix(" --random-fully"))

    @cached_property
    def _has_random_fully(self) -> bool:
        version = re.search(r"v(\d+)\.(\d+)\.(\d+)", _run("iptables", "--version"))
        return version is not None and tuple(map(int, version.groups())) >= RANDOM_FULLY_SINCE


def _by_family(rules: Sequence[RuleSet]) -> list[tuple[Family, RuleSet]]:
    """A rule set for each family, an empty one where none is given."""
    wanted = {rule_set.family: rule_set for rule_set in rules}
    return [(family, wanted.get(family, RuleSet(family))) for family in FAMILIES]


def render_rule(place: Place, rule: Rule, target: str) -> str:
    """The rule exactly as iptables-save prints it, so that lines can be compared."""
    mark = [f"-m mark --mark {rule.mark:#x}/{rule.mark:#x}"] if rule.mark else []
    sides = [_render_side(option, side) for option, side in (("-s", rule.source), ("-d", rule.destination)) if side]
    return " ".join([f"-A {place.chain}", *sides, *mark, f'-m comment --comment "{place.comment}" -j {target}'])


def _render_side(option: str, side: Side) -> str:
    return f"{option} {side.network}" if side.inside else f"! {option} {side.network}"


def parse_save(text: str) -> dict[str, list[str]]:
    """Chains (`:NAME policy [counters]`) and rules (`-A ...`) of each table in iptables-save's output."""
    tables: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            lines = tables.setdefault(line[1:], [])
        elif line.startswith((":", "-A ")):
            lines.append(line)
    return tables


def repair(saved: Sequence[str], place: Place, rules: Sequence[str]) -> list[str]:
    """The iptables-restore lines that bring our chain and its one jump to `rules`; none when it is so already.

    Without rules the chain goes, and with it every jump to it, whoever made that. A jump that is there stays where it is.
    """
    declaration = f":{place.chain} - [0:0]"  # with --noflush it empties a chain that exists
    exists = any(line.startswith(f":{place.chain} ") for line in saved)
    if not rules:
        jumps = [line for line in saved if line.endswith((f" -j {place.chain}", f" -g {place.chain}"))]
        return [declaration, *(_deletion(line) for line in jumps), f"-X {place.chain}"] if exists else []
    present = [line for line in saved if line.startswith(f"-A {place.chain} ")]
    jumps = [line for line in saved if line == place.jump]
    if present == rules and len(jumps) == 1:
        return []
    return [declaration, *(_deletion(line) for line in jumps[1:]), *([] if jumps else [place.jump]), *rules]


def _deletion(line: str) -> str:
    return "-D" + line.removeprefix("-A")


def _run(*command: str, given: str = "") -> str:
    """What the program printed; it inherits the network namespace of the calling thread. Raises FirewallError."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FirewallError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or "it said nothing"
        raise FirewallError(f"{command[0]} ended with status {done.returncode}: {reason}")
    return done.stdout
