"""What the speaker has to tell: first how everything stands, then what changes, and when it cannot tell; must not know how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from bgp.events import Event, EvpnAnnounced, Opened
from bgp.evpn.routes import Key
from bgp.path import Path
from flanneld import FlanneldError
from flanneld.lease import IPAddress, IPNetwork


class SpeakerError(FlanneldError):
    """exabgp, or a neighbour by its mouth, said something that cannot be, refused a command, or is not there."""


@dataclass(frozen=True, slots=True)
class Synced:
    """How everything stands at one instant; events from here on say what changes."""

    sessions: Mapping[IPAddress, str]
    """Which there are, established or not, each with its `commands.fingerprint`."""
    opened: Mapping[IPAddress, Opened]
    """Of established sessions, what the neighbour's OPEN said."""
    paths: tuple[Path, ...]
    """Of established sessions, what the neighbours have announced."""
    announced: Mapping[IPAddress, frozenset[IPNetwork]]
    """What we have announced, sent or to be sent."""
    evpn: tuple[EvpnAnnounced, ...] = ()
    """Of established sessions, what the neighbours have announced by EVPN."""
    evpn_announced: Mapping[IPAddress, frozenset[Key]] = field(default_factory=lambda: MappingProxyType({}))
    """What we have announced by EVPN."""

    @property
    def established(self) -> frozenset[IPAddress]:
        return frozenset(self.opened)


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection to exabgp is lost, or it cannot be started. Nothing is known of the sessions until the next Synced."""

    why: str


News: TypeAlias = Synced | Lost | Event
