"""What sessions are configured with, in the mesh and with other neighbours alike; must not know which sessions there are.

RFC 4271 §4.2 (hold time), RFC 4724 (graceful restart), RFC 5082 (GTSM), RFC 5880 (BFD).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeGuard, TypeVar

from bgp.path import Asn, Community
from bgp.peer import MaxPrefix
from bgp.policy import Rule, parse_community, parse_rules
from bgp.section import Section
from bgp.selector import Selector, parse_selector

D = TypeVar("D")
LAST_ASN = (1 << 32) - 2
"""RFC 7300 reserves the one above."""
RESERVED_ASNS = frozenset({23456, 65535})
"""AS_TRANS (RFC 6793 §9), and the last of 16 bits (RFC 7300); 0 is out of range (RFC 7607)."""
LONGEST_GRACEFUL_RESTART_S = (1 << 12) - 1
"""What fits in its 12 bits (RFC 4724 §3)."""
DEFAULT_MAX_PREFIX = MaxPrefix(10_000)
"""More than a cluster's hosts bring, and less than the Internet."""
MOST_PREFIXES = 10_000_000


@dataclass(frozen=True, slots=True)
class BfdTimers:
    """How soon a dead neighbour is noticed: after interval times multiplier."""

    interval_ms: int = 300
    """Between two packets, 10 to 60000. A daemon that is held up for a blink must not lose its neighbours."""
    multiplier: int = 3
    """So many packets in a row may be lost, 1 to 255."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What one session, or all of the mesh, is configured with."""

    hold_time_s: int = 9
    """3 to 65535. A dead host is noticed in that time, and 9 bears two lost keepalives."""
    graceful_restart_s: int = 120
    """0 to 4095: so long a neighbour keeps our routes while we restart; 0: not at all."""
    ttl_security: int | None = 1
    """GTSM: the neighbour is at most so many hops away, 1 to 254; None: not checked. 1: hosts of one segment, as most are."""
    multihop: int | None = None
    """The TTL that we send with, 2 to 255; None: the system's own."""
    password_file: str = ""
    """Absolute path of the file with the TCP MD5 password; empty: none."""
    bfd: BfdTimers | None = None
    """None, the default: routers must be told of it first."""
    max_prefix: MaxPrefix = DEFAULT_MAX_PREFIX
    imports: tuple[Rule, ...] = ()
    """For what the neighbour announces; the first that matches decides."""
    exports: tuple[Rule, ...] = ()
    """For what is announced to it."""


def read_session(section: Section, defaults: SessionSettings) -> SessionSettings:
    """HoldTime, GracefulRestart, TTLSecurity, PasswordFile, BFD, MaxPrefix, Import and Export of one object.

    Rules of the object come before those of the defaults.
    """
    return SessionSettings(
        hold_time_s=section.number("HoldTime", 3, 65535, defaults.hold_time_s),
        graceful_restart_s=section.number("GracefulRestart", 0, LONGEST_GRACEFUL_RESTART_S, defaults.graceful_restart_s),
        ttl_security=None if section.off("TTLSecurity") else section.number("TTLSecurity", 1, 254, defaults.ttl_security),
        password_file=section.parsed("PasswordFile", _absolute, "an absolute path", defaults.password_file),
        bfd=_bfd(section, defaults.bfd),
        max_prefix=MaxPrefix(section.number("MaxPrefix", 1, MOST_PREFIXES, defaults.max_prefix.limit)),
        imports=read_rules(section, "Import") + defaults.imports,
        exports=read_rules(section, "Export") + defaults.exports,
    )


def is_asn(value: object) -> TypeGuard[int]:
    """True for the number of an autonomous system that there can be."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LAST_ASN and value not in RESERVED_ASNS


def read_asn(section: Section, default: D) -> Asn | D:
    """The key AS."""
    value = section.get("AS")
    if value is None:
        return default
    return Asn(value) if is_asn(value) else section.wrong("AS", f"an AS number from 1 to {LAST_ASN} that is not reserved")


def read_router_id(section: Section, key: str) -> IPv4Address | None:
    """RouterID or ClusterID: 32 bits that are not all zero (RFC 6286 §2.1), as a dotted quad."""
    return section.parsed(key, parse_router_id, "a dotted quad like 10.0.0.1, not 0.0.0.0", None)


def parse_router_id(text: str) -> IPv4Address:
    """Read a dotted quad; raises ValueError, for 0.0.0.0 too."""
    quad = IPv4Address(text)
    if not int(quad):
        raise ValueError("0.0.0.0 identifies nobody")
    return quad


def read_communities(section: Section) -> frozenset[Community] | None:
    """The key Communities; None when it is absent."""
    if not section.given("Communities"):
        return None
    return frozenset(section.listed("Communities", parse_community, 'a community like "64512:100"'))


def read_selector(section: Section, key: str) -> Selector | None:
    """A selector of hosts; None when there is none."""
    return section.parsed(key, lambda text: parse_selector(text, section.at(key)), 'a selector like "rack == r1"', None)


def read_rules(section: Section, key: str) -> tuple[Rule, ...]:
    """Import or Export; empty when it is absent."""
    return parse_rules(section.get(key), section.at(key))


def _bfd(section: Section, default: BfdTimers | None) -> BfdTimers | None:
    if section.off("BFD"):
        return None
    part = section.section("BFD")
    if part is None:
        return default
    usual = BfdTimers() if default is None else default
    timers = BfdTimers(
        interval_ms=part.number("Interval", 10, 60_000, usual.interval_ms),
        multiplier=part.number("Multiplier", 1, 255, usual.multiplier),
    )
    part.finish()
    return timers


def _absolute(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise ValueError("not an absolute path")
    return text
