"""What exabgp is told, as lines of its API (version 5) and of the launcher's; must not know what answers.

A prefix or a session is told in full each time: what has been told before does no harm.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.routes import EvpnRoute, Key
from bgp.path import AsPath, Attributes
from bgp.session import Channel, Session
from bgp.speaker import relay
from bgp.speaker.news import SpeakerError
from flanneld.lease import IPAddress, IPNetwork

MOST_PREFIXES = 200
"""In one line: exabgp takes lines of up to 1 MiB, and blocks are twice as fast as lines of their own."""
MOST_PASSWORD_BYTES = 80  # TCP_MD5SIG_MAXKEYLEN of linux/tcp.h
MOST_RESTART_S = 4095  # RFC 4724 §3: twelve bits
LEAVE, QUIT = "leave", "quit"
PMSI_TUNNEL = "0x16 0xc0"
"""Code and flags (optional, transitive) of RFC 6514 §5."""
FAMILIES: dict[Channel, str] = {4: "ipv4 unicast", 6: "ipv6 unicast", "evpn": "l2vpn evpn"}


@dataclass(frozen=True, slots=True)
class Announcement:
    """A prefix that a neighbour is told of."""

    prefix: IPNetwork
    next_hop: IPAddress | None = None
    """None: our end of the session, which must be of the prefix's family."""
    attributes: Attributes = field(default_factory=Attributes)
    """As the neighbour is to see them. An empty AS path becomes what is right for the session: our own number outside of our AS,
    nothing inside; another is told as it is. The local preference is told inside of our AS only."""


def announce(peer: IPAddress, announcements: Iterable[Announcement], *others: IPAddress) -> list[str]:
    """Announce them, in place of what was announced of these prefixes; of two for one prefix the last counts.

    `others` are told the same, and are of the peer's family: exabgp reads a line once, whomever it is for.
    Raises SpeakerError when the next hop would be our end of a session of the other family.
    """
    blocks: dict[str, list[IPNetwork]] = {}
    for announcement in {announcement.prefix: announcement for announcement in announcements}.values():
        if announcement.next_hop is None and announcement.prefix.version != peer.version:
            raise SpeakerError(
                f"{announcement.prefix} for {peer} has no next hop, expected one of IPv{announcement.prefix.version}"
            )
        said = _attributes(announcement.next_hop, announcement.attributes)
        blocks.setdefault(f"{announcement.prefix.version} {said}", []).append(announcement.prefix)
    return [
        f"{_to(peer, *others)} announce attributes {said[2:]} nlri {prefixes}"
        for said, members in blocks.items()
        for prefixes in _blocks(members)
    ]


def withdraw(peer: IPAddress, prefixes: Iterable[IPNetwork], *others: IPAddress) -> list[str]:
    """Withdraw prefixes, announced or not."""
    lines = []
    ours = frozenset(prefixes)
    for version, next_hop in ((4, "0.0.0.0"), (6, "::")):  # noqa: S104  # exabgp wants one, and does not say it
        members = sorted(prefix for prefix in ours if prefix.version == version)
        lines += [f"{_to(peer, *others)} withdraw attributes next-hop {next_hop} nlri {block}" for block in _blocks(members)]
    return lines


def announce_evpn(peer: IPAddress, announcements: Iterable[EvpnAnnouncement]) -> list[str]:
    """Announce EVPN routes, each in place of what was announced of its key."""
    return [f"evpn announce {peer} {each.route.encode().hex()} {_evpn_attributes(each)}" for each in announcements]


def withdraw_evpn(peer: IPAddress, keys: Iterable[Key]) -> list[str]:
    """Withdraw EVPN routes, announced or not."""
    return [f"evpn withdraw {peer} {EvpnRoute(key).encode().hex()}" for key in keys]


def end_of_rib(peer: IPAddress, family: Channel) -> str:
    """Say that all has been said (RFC 4724 §2), after all that was announced before; refused unless the session is established."""
    return f"neighbor {peer} announce eor {FAMILIES[family]}"


def refresh(peer: IPAddress, family: Channel) -> str:
    """Ask the neighbour to say everything again (RFC 2918); refused unless the session is established."""
    return f"neighbor {peer} announce route-refresh {FAMILIES[family]}"


def add(session: Session) -> str:
    """Have a session; it may be repeated, and one that differs is replaced. Raises SpeakerError for one that cannot be."""
    text = render_session(session)
    return f"peer add {fingerprint(session)} {base64.b64encode(text.encode()).decode()}"


def delete(peer: IPAddress) -> str:
    """Have the session no more: the neighbour is told, and forgets our routes."""
    return f"peer del {peer}"


def teardown(peer: IPAddress) -> str:
    """End the session as if for good, and begin it anew."""
    return f"peer renew {peer}"


def list_all(token: str) -> str:
    """Say how everything stands, after the token."""
    return f"peer list {token}"


def fingerprint(session: Session) -> str:
    """Tells a session from one that differs in anything; raises SpeakerError for one that cannot be."""
    return hashlib.sha256(render_session(session).encode()).hexdigest()[:32]


def render_session(session: Session) -> str:
    """The session as a part of exabgp's configuration; raises SpeakerError for one that cannot be.

    `manual-eor`: else the end of RIB is said before the first route is, and a neighbour forgets what it kept over our restart.
    `adj-rib-in`: what was announced is known to a daemon that comes later. Families and passwords are never guessed.
    """
    _check(session)
    settings = {
        "router-id": session.router_id,
        "local-address": session.local,
        "local-as": session.local_as,
        "peer-as": session.peer_as,
        "hold-time": session.hold_time_s,
        "connect": session.port,
        "passive": _truth(session.passive),
        "manual-eor": "true",
        "adj-rib-in": "true",
        "adj-rib-out": "true",
        "group-updates": "true",
        **_security(session),
    }
    lines = [f"{name} {value};" for name, value in settings.items()]
    return "\n".join([f"neighbor {session.peer} {{", *lines, *_sections(session), "}", ""])


def _check(session: Session) -> None:
    if session.local.version != session.peer.version:
        raise SpeakerError(f"session of {session.local} with {session.peer}: expected addresses of one family")
    if not session.families and not session.evpn:
        raise SpeakerError(f"session with {session.peer} has no family, expected one")
    if session.hold_time_s < 3:
        raise SpeakerError(f"hold time of {session.hold_time_s} s for {session.peer}: expected 3 or more")
    if not 0 <= session.graceful_restart_s <= MOST_RESTART_S:
        raise SpeakerError(f"graceful restart of {session.graceful_restart_s} s for {session.peer}: expected 0 to {MOST_RESTART_S}")
    if len(session.password.encode()) > MOST_PASSWORD_BYTES:
        raise SpeakerError(f"password for {session.peer}: expected at most {MOST_PASSWORD_BYTES} bytes")


def _security(session: Session) -> dict[str, object]:
    """TTL and password; the latter in base64, as every other form has characters that it cannot have."""
    said: dict[str, object] = {}
    if session.ttl_security is not None:
        said["incoming-ttl"] = 256 - session.ttl_security  # and 255 outwards (RFC 5082 §3)
    elif session.multihop is not None:
        said["outgoing-ttl"] = session.multihop
    if session.password:
        said["md5-password"] = f'"{base64.b64encode(session.password.encode()).decode()}"'
        said["md5-base64"] = "true"
    return said


def _sections(session: Session) -> Iterator[str]:
    families = [FAMILIES[channel] for channel in session.channels]
    restart = session.graceful_restart_s or "disable"
    yield f"family {{ {' '.join(f'{family};' for family in families)} }}"
    if session.peer.version == 6 and {4, 6} <= set(session.families):  # RFC 8950; exabgp cannot without IPv6's family
        yield "nexthop { ipv4 unicast ipv6; }"
    yield f"capability {{ asn4 enable; route-refresh enable; extended-message enable; graceful-restart {restart}; }}"
    yield f"api {{ processes [ {relay.NAME} ]; neighbor-changes; receive {{ parsed; open; update; }} }}"


def _evpn_attributes(announcement: EvpnAnnouncement) -> str:
    """The same, with what only EVPN says, as bytes: exabgp has no words for all of it."""
    said = [_attributes(announcement.next_hop, announcement.attributes)]
    if announcement.extended:
        said.append(f"extended-community [ {' '.join(f'0x{each:016x}' for each in sorted(announcement.extended))} ]")
    if announcement.tunnel:
        said.append(f"attribute [ {PMSI_TUNNEL} 0x{announcement.tunnel.hex()} ]")
    return " ".join(said)


def _to(*peers: IPAddress) -> str:
    return " , ".join(f"neighbor {peer}" for peer in peers)


def _attributes(next_hop: IPAddress | None, attributes: Attributes) -> str:
    said = [f"next-hop {next_hop or 'self'}", f"origin {attributes.origin.name.lower()}"]
    if attributes.as_path.length:
        said.append(f"as-path {_as_path(attributes.as_path)}")
    if attributes.med is not None:
        said.append(f"med {attributes.med}")
    if attributes.local_pref is not None:
        said.append(f"local-preference {attributes.local_pref}")
    if attributes.communities:
        said.append(f"community [ {' '.join(f'{high}:{low}' for high, low in sorted(attributes.communities))} ]")
    if attributes.originator_id is not None:
        said.append(f"originator-id {attributes.originator_id}")
    if attributes.cluster_list:
        said.append(f"cluster-list [ {' '.join(map(str, attributes.cluster_list))} ]")
    return " ".join(said)


def _as_path(path: AsPath) -> str:
    segments = [f"[ {' '.join(map(str, path.sequence))} ]"] if path.sequence else []
    return " ".join([*segments, *(f"( {' '.join(map(str, sorted(members)))} )" for members in path.sets)])


def _blocks(prefixes: Iterable[IPNetwork]) -> Iterator[str]:
    rest = iter(prefixes)
    while block := list(islice(rest, MOST_PREFIXES)):
        yield " ".join(map(str, block))


def _truth(value: bool) -> str:
    return "true" if value else "false"
