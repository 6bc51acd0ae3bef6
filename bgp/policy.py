"""The small language that says which announcements are taken or made, and how they are changed; must not know sessions.

A list of rules, of which the first that matches decides; where none does, the announcement is accepted as it is. The same for what
peers tell us (import) and for what we tell them (export). What must hold whatever the rules say is `admission`'s business.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network

from bgp.path import GRACEFUL_SHUTDOWN, NO_ADVERTISE, NO_EXPORT, Asn, AsPath, Community, Path
from bgp.section import Section, refuse
from flanneld.lease import Family, IPNetwork, inside

LARGEST = 0xFFFFFFFF
"""Of an AS number, a MED and a local preference."""
LARGEST_HALF = 0xFFFF
"""Of each half of a community."""
MOST_PREPENDED = 32
"""More serve nothing: no path of today's Internet is as long."""
WELL_KNOWN: Mapping[str, Community] = {
    "graceful-shutdown": GRACEFUL_SHUTDOWN,
    "no-export": NO_EXPORT,
    "no-advertise": NO_ADVERTISE,
}
EXPECTED_COMMUNITY = f"two numbers up to 65535 like 64512:100, or {', '.join(WELL_KNOWN)}"
NAMES: Mapping[Community, str] = {community: name for name, community in WELL_KNOWN.items()}


@dataclass(frozen=True, slots=True)
class Match:
    """Which announcements a rule is for: those that meet all that is said here, so with nothing said every one."""

    prefix: IPNetwork | None = None
    """The prefix is this network or a part of it."""
    lengths: tuple[int, int] | None = None
    """The prefix is from so long to so long, both included."""
    communities: frozenset[Community] = frozenset()
    """The announcement has one of these at least."""
    origin_as: Asn | None = None
    """Where the prefix comes from (RFC 6811 §2): the last of the AS path; our own AS where the path is empty."""
    as_in_path: Asn | None = None
    family: Family | None = None

    def holds(self, path: Path, local_as: Asn) -> bool:
        """True if the rule is for `path`; `local_as` is our AS in the session that it comes or goes by."""
        attributes, prefix = path.attributes, path.prefix
        return (
            (self.family is None or prefix.version == self.family)
            and (self.prefix is None or inside(prefix, self.prefix))
            and (self.lengths is None or self.lengths[0] <= prefix.prefixlen <= self.lengths[1])
            and (not self.communities or not self.communities.isdisjoint(attributes.communities))
            and (self.origin_as is None or origin_as(attributes.as_path, local_as) == self.origin_as)
            and (self.as_in_path is None or self.as_in_path in attributes.as_path)
        )

    def __str__(self) -> str:
        said = {
            "family": self.family,
            "prefix in": self.prefix,
            "length": self.lengths and f"{self.lengths[0]} to {self.lengths[1]}",
            "community": " or ".join(map(render_community, sorted(self.communities))) or None,
            "origin AS": self.origin_as,
            "AS in path": self.as_in_path,
        }
        return ", ".join(f"{what} {value}" for what, value in said.items() if value is not None) or "everything"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a rule that accepts makes of the announcement."""

    local_pref: int | None = None
    """None: left as it is, as with `med`."""
    med: int | None = None
    communities: frozenset[Community] = frozenset()
    """Added to what is there."""
    prepend: int = 0
    """How often the AS path is lengthened."""

    def apply(self, path: Path, asn: Asn) -> Path:
        """The path with the changes made; `asn` is what it is lengthened by."""
        if self == UNCHANGED:
            return path
        old = path.attributes
        new = replace(
            old,
            local_pref=old.local_pref if self.local_pref is None else self.local_pref,
            med=old.med if self.med is None else self.med,
            communities=old.communities | self.communities,
            as_path=AsPath((asn,) * self.prepend + old.as_path.sequence, old.as_path.sets),
        )
        return replace(path, attributes=new)


UNCHANGED = Changes()


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a policy."""

    match: Match = Match()
    accept: bool = True
    changes: Changes = UNCHANGED
    """Of no account where it does not accept."""


def decide(rules: tuple[Rule, ...], path: Path, local_as: Asn, prepended: Asn) -> Path | str:
    """The path as the first rule that matches changes it; or which rule refuses it, in words.

    `prepended`: whose number lengthens the AS path, the peer's for what it announces and ours for what we do.
    """
    for place, rule in enumerate(rules):
        if rule.match.holds(path, local_as):
            return rule.changes.apply(path, prepended) if rule.accept else f"rule [{place}] refuses it: {rule.match}"
    return path


def origin_as(as_path: AsPath, local_as: Asn) -> Asn | None:
    """The AS that the prefix comes from (RFC 6811 §2); None where it was put together of several."""
    if as_path.sets:
        return None
    return as_path.sequence[-1] if as_path.sequence else local_as


def parse_community(text: str) -> Community:
    """Read `64512:100` or a well-known name (RFC 1997, RFC 8326); raises ValueError."""
    known = WELL_KNOWN.get(text.lower())
    if known is not None:
        return known
    halves = re.fullmatch(r"([0-9]{1,5}):([0-9]{1,5})", text)
    high, low = map(int, halves.groups()) if halves else (LARGEST, LARGEST)
    if max(high, low) > LARGEST_HALF:
        raise ValueError(f"expected {EXPECTED_COMMUNITY}, got {reprlib.repr(text)}")
    return high, low


def render_community(community: Community) -> str:
    """What `parse_community` reads."""
    return NAMES.get(community) or f"{community[0]}:{community[1]}"


def parse_rules(value: object, key: str) -> tuple[Rule, ...]:
    """Read a list of rules from decoded JSON, none where there is none; `key` is where it stands in the config.

    Keys match without regard to case. Raises ConfigError for a key that is unknown and for every value that cannot be.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        refuse(key, "a list", value)
    return tuple(_rule(each, f"{key}[{place}]") for place, each in enumerate(value))


def _rule(value: object, key: str) -> Rule:
    if not isinstance(value, dict):
        refuse(key, "an object", value)
    rule = Section(value, key)
    match, action, changes = rule.section("Match"), rule.get("Action"), rule.section("Set")
    if not isinstance(action, str) or action.lower() not in ("accept", "refuse"):
        rule.wrong("Action", '"accept" or "refuse"')
    if changes is not None and action.lower() == "refuse":
        rule.wrong("Set", "none in a rule that refuses")
    rule.finish()
    return Rule(
        Match() if match is None else _match(match),
        action.lower() == "accept",
        UNCHANGED if changes is None else _changes(changes),
    )


def _match(written: Section) -> Match:
    prefix, family = written.parsed("Prefix", _network, "a network like 10.244.0.0/16 or fd00:244::/48", None), _family(written)
    if prefix is not None and family not in (None, prefix.version):
        written.wrong("Family", f"{prefix.version}, as Prefix {prefix} is")
    origin, passed = written.number("OriginAS", 1, LARGEST, None), written.number("ASInPath", 1, LARGEST, None)
    match = Match(
        prefix,
        _lengths(written, prefix, family),
        _communities(written),
        None if origin is None else Asn(origin),
        None if passed is None else Asn(passed),
        family,
    )
    written.finish()
    return match


def _network(text: str) -> IPNetwork:
    # ip_network takes netmasks, and addresses alone, and knows zones
    if not re.fullmatch(r"[0-9A-Fa-f.:]+/[0-9]{1,3}", text):
        raise ValueError(f"expected address/length, got {reprlib.repr(text)}")
    return ip_network(text)


def _family(written: Section) -> Family | None:
    number = written.number("Family", 4, 6, None)
    if number == 5:
        written.wrong("Family", "4 or 6")
    return None if number is None else 4 if number == 4 else 6


def _lengths(written: Section, prefix: IPNetwork | None, family: Family | None) -> tuple[int, int] | None:
    value = written.get("Lengths")
    if value is None:
        return None
    shortest = 0 if prefix is None else prefix.prefixlen
    longest = 32 if 4 in (family, prefix and prefix.version) else 128
    match value:
        case [low, high] if type(low) is type(high) is int and 0 <= low <= high <= longest and high >= shortest:
            return low, high
    reaching = f" and the last {shortest} or more, as Prefix {prefix} has" if shortest else ""
    return written.wrong("Lengths", f"[shortest, longest] from 0 to {longest}{reaching}")


def _communities(written: Section) -> frozenset[Community]:
    found = frozenset(written.listed("Communities", parse_community, EXPECTED_COMMUNITY))
    if not found and written.given("Communities"):
        written.wrong("Communities", "one community at least")
    return found


def _changes(written: Section) -> Changes:
    changes = Changes(
        written.number("LocalPref", 0, LARGEST, None),
        written.number("MED", 0, LARGEST, None),
        _communities(written),
        written.number("Prepend", 0, MOST_PREPENDED, 0),
    )
    written.finish()
    return changes
