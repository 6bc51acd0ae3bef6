"""What exabgp (5.0) and the launcher say in one line, as values; must not know where lines come from, nor what was asked.

Lines are JSON objects of exabgp's encoder or, with a `speaker` in them, of ours (`launcher.commands`, `relay`); and the words
`done` and `error`, which answer one command each, in the order of the commands.
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, TypeAlias

from bgp.events import Down, EndOfRib, Event, Opened, Up
from bgp.evpn.routes import Key
from bgp.path import Asn
from bgp.session import Channel
from bgp.speaker.evpn_update import evpn_keys
from bgp.speaker.news import SpeakerError
from bgp.speaker.update import decode_update
from flanneld.lease import Family, IPAddress, IPNetwork

_FAMILIES: dict[str, Family] = {"ipv4/unicast": 4, "ipv6/unicast": 6}
_CHANNELS: dict[str, Channel] = {**_FAMILIES, "l2vpn/evpn": "evpn"}


@dataclass(frozen=True, slots=True)
class Answer:
    """To the first command that has none yet."""

    done: bool


@dataclass(frozen=True, slots=True)
class Hello:
    """The first line of a connection: whose relay it is."""

    settings: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What follows, up to the answer, is how everything stands."""

    token: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One session of a listing."""

    peer: IPAddress
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Was:
    """What of the past still holds of an established session, in a listing."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class WasAnnounced:
    """What we have announced in a session, in a listing."""

    peer: IPAddress
    prefixes: frozenset[IPNetwork]
    evpn: frozenset[Key] = frozenset()


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the answer that follows is an error."""

    why: str


Said: TypeAlias = tuple[Event, ...] | Answer | Hello | Listing | Listed | Was | WasAnnounced | Refused


def decode(line: str) -> Said:
    """Read a line; an empty tuple for one that is of no interest. Raises SpeakerError for one that cannot be."""
    if (word := line.strip()) in ("done", "error"):
        return Answer(word == "done")
    try:
        message = json.loads(line)
        return _ours(message) if "speaker" in message else _event(message)
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SpeakerError(f"exabgp said {reprlib.repr(line)}, expected a message: {error!r}") from error


def _ours(message: dict[str, Any]) -> Said:
    match message["speaker"]:
        case "hello":
            return Hello(str(message["settings"]))
        case "list":
            return Listing(str(message["token"]))
        case "session":
            return Listed(ip_address(message["peer"]), str(message["fingerprint"]))
        case "was":
            return Was(_event(message["event"]))
        case "announced":
            prefixes = frozenset(map(ip_network, message["prefixes"]))
            return WasAnnounced(ip_address(message["peer"]), prefixes, evpn_keys(message.get("evpn", [])))
        case "refused":
            return Refused(str(message["why"]))
        case other:
            raise ValueError(other)


def _event(message: dict[str, Any]) -> tuple[Event, ...]:
    neighbor = message.get("neighbor")
    if neighbor is None or neighbor.get("direction") == "send":
        return ()  # that exabgp ends, which the connection's end says too
    peer = ip_address(neighbor["address"]["peer"])
    match message["type"]:
        case "state":
            return _state(peer, neighbor)
        case "open":
            return (_open(peer, neighbor["open"]),)
        case "update" if "eor" in neighbor["message"]:
            return _end_of_rib(peer, neighbor["message"]["eor"])
        case "update":
            return decode_update(peer, neighbor["message"]["update"])
        case _:
            return ()


def _state(peer: IPAddress, neighbor: dict[str, Any]) -> tuple[Event, ...]:
    match neighbor["state"]:
        case "up":
            return (Up(peer),)
        case "down":
            why = str(neighbor["reason"])
            # A hold timer that ran out is a NOTIFICATION that we send (4,0). Another reason has that word in it to deny it.
            return (Down(peer, why, hard=why.startswith(("notification sent", "notification received"))),)
        case _:
            return ()  # a connection, over which nothing has been said


def _open(peer: IPAddress, message: dict[str, Any]) -> Opened:
    capabilities = message["capabilities"]
    asn = capabilities["65"]["asn4"] if "65" in capabilities else message["asn"]
    restart = capabilities.get("64")
    if restart is None:
        return Opened(peer, Asn(asn), str(message["router_id"]), int(message["hold_time"]), None)
    # exabgp calls the R bit `forwarding`, and the F bit of a family `restart`.
    kept = [_FAMILIES[name] for name, flags in restart["address-family-flags"].items() if name in _FAMILIES and "restart" in flags]
    return Opened(
        peer,
        Asn(asn),
        str(message["router_id"]),
        int(message["hold_time"]),
        int(restart["time"]),
        restarting="forwarding" in restart["restart-flags"],
        forwarding=frozenset(kept),
    )


def _end_of_rib(peer: IPAddress, eor: dict[str, Any]) -> tuple[Event, ...]:
    channel = _CHANNELS.get(f"{eor['afi']}/{eor['safi']}")
    return () if channel is None else (EndOfRib(peer, channel),)
