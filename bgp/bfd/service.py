"""BFD with all neighbours that somebody wants to watch: RFC 5881, single hop, IPv4 and IPv6; must not know what hangs on them.

    service = BfdService(changed)
    service.follow({IPv4Address("192.0.2.2"): BfdSettings(IPv4Address("192.0.2.1"), interval_ms=100, multiplier=3)})
    ...
    service.close()

Whatever keeps a session from running (an address that is not there yet, another program on the port) is tried again until it works;
meanwhile the session is not up.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, ip_address
from random import random as uniform
from typing import TypeAlias

from bgp.bfd import sockets
from bgp.bfd.conversation import Conversation, Sender, Surroundings
from bgp.bfd.listener import Listener
from bgp.bfd.packet import Diagnostic, Drop, State, describe
from bgp.bfd.session import BfdSession, Timing
from bgp.bfd.sockets import Place
from flanneld.lease import IPAddress
from flanneld.log import Log, Once

log = Log(__name__)

RETRY_S = 1.0
"""Between two tries to open what could not be opened, or did not work."""
ADMINISTRATIVELY_DOWN = describe(Diagnostic.ADMINISTRATIVELY_DOWN)
"""The diagnostic when BFD was ended on purpose, by the neighbour or by us: no sign that the neighbour is dead (RFC 5882 §3.2)."""

Changed: TypeAlias = Callable[[IPAddress, bool, str], None]
"""The neighbour, whether its session is up now, and the diagnostic in words if it is not any more."""


@dataclass(frozen=True, slots=True)
class BfdSettings:
    """What the session with one neighbour is to be."""

    local: IPAddress
    """Our end, of the same family."""
    interval_ms: int
    """We send so often, and can receive so often; whoever of the two ends is slower decides. 10 to 60000."""
    multiplier: int
    """1 to 255: after so many intervals of silence the neighbour is dead."""
    device: str = ""
    """The link that both ends are on; needed for link-local addresses, which may also name it themselves. Empty: any."""

    @property
    def timing(self) -> Timing:
        return Timing(self.interval_ms * 1000, self.multiplier)


class BfdService:
    """All sessions of this host, in the running event loop. Between calls of `follow` they run by themselves."""

    def __init__(self, changed: Changed, random: Callable[[], float] = uniform) -> None:
        """`changed` is called in the event loop and may call `follow`; `random` returns 0 <= x < 1."""
        self.dropped: Counter[Drop] = Counter()
        """Datagrams that were not taken."""
        self.send_failures = 0
        """Packets that the kernel did not take."""
        self.troubles: dict[IPAddress, str] = {}
        """What keeps sessions from running, or from being heard."""
        self._changed = changed
        self._random = random
        self._wanted: dict[IPAddress, BfdSettings] = {}
        self._running: dict[IPAddress, tuple[Place, Conversation]] = {}
        self._listeners: dict[Place, Listener] = {}
        self._up: set[IPAddress] = set()
        """As was told last."""
        self._retry: asyncio.TimerHandle | None = None
        self._said = Once(log)

    @property
    def states(self) -> dict[IPAddress, State]:
        """Of the sessions that run."""
        return {peer: conversation.state for peer, (_, conversation) in self._running.items()}

    def follow(self, wanted: Mapping[IPAddress, BfdSettings]) -> None:
        """Watch exactly these neighbours; the same again does nothing.

        Other intervals are agreed upon while the session runs; another local end is another session. Of a neighbour that is not
        wanted any more nothing is told.
        """
        self._wanted = dict(wanted)
        self.troubles = {peer: why for peer, why in self.troubles.items() if peer in wanted}
        self._reconcile()

    def close(self) -> None:
        """End all sessions, so that neighbours take none of them for a failure; may be repeated."""
        self.follow({})

    def _reconcile(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        places = {peer: place_of(peer, settings) for peer, settings in self._wanted.items()}
        for peer, (place, _) in list(self._running.items()):
            if places.get(peer) != place:
                self._end(peer)
        for idle in self._listeners.keys() - {place for place, _ in self._running.values()}:
            self._listeners.pop(idle).close()  # before another one listens on the same address by another device
        for peer, settings in self._wanted.items():
            if peer in self._running:
                self._running[peer][1].retime(settings.timing)
            else:
                self._begin(peer, places[peer])

    def _end(self, peer: IPAddress) -> None:
        place, conversation = self._running.pop(peer)
        self._listeners[place].takers.pop(sockets.address_text(peer), None)
        conversation.end()

    def _begin(self, peer: IPAddress, place: Place | None) -> None:
        try:
            if place is None:
                raise OSError(errno.ENODEV, "no such device")
            self._running[peer] = (place, self._opened(peer, place))
            self.troubles.pop(peer, None)
        except OSError as error:
            self._fail(peer, "bfd session not possible", error)

    def _opened(self, peer: IPAddress, place: Place) -> Conversation:
        listener = self._listeners.get(place)
        if listener is None:
            listener = self._listeners[place] = Listener(place, self.dropped)
        others = [conversation for _, conversation in self._running.values()]
        sender = Sender(sockets.open_sender(place, {other.source_port for other in others}), place, peer)
        discriminator = _another({other.discriminator for other in others})
        session = BfdSession(discriminator, self._wanted[peer].timing, self._random)
        around = Surroundings(listener.read, partial(self._tell, peer), partial(self._send_failed, peer))
        conversation = Conversation(session, sender, around)
        listener.takers[sockets.address_text(peer)] = conversation.take
        return conversation

    def _send_failed(self, peer: IPAddress, error: OSError) -> None:
        self.send_failures += 1
        if peer in self._wanted:
            self._fail(peer, "bfd packet not sent", error)

    def _fail(self, peer: IPAddress, phrase: str, error: OSError) -> None:
        self.troubles[peer] = f"{phrase}: {error.strerror}"
        self._said.warning(str(peer), phrase, peer=peer, local=self._wanted[peer].local, error=error.strerror)
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._reconcile)

    def _tell(self, peer: IPAddress, up: bool, why: str) -> None:
        if peer not in self._wanted:
            self._up.discard(peer)
        elif up and peer not in self._up:
            self._up.add(peer)
            self._said.over(str(peer))
            self.troubles.pop(peer, None)
            log.info("bfd session up", peer=peer)
            self._changed(peer, True, why)
        elif not up and peer in self._up:
            self._up.remove(peer)
            log.warning("bfd session down", peer=peer, why=why)
            self._changed(peer, False, why)


def place_of(peer: IPAddress, settings: BfdSettings) -> Place | None:
    """Where the session with that neighbour ends; None: that device is not there. An address's scope names a device, too."""
    scopes = (address.scope_id for address in (settings.local, peer) if isinstance(address, IPv6Address))
    device = settings.device or next((scope for scope in scopes if scope), "")
    try:
        return Place(ip_address(settings.local.packed), device, socket.if_nametoindex(device) if device else 0)
    except OSError:
        return None


def _another(taken: Container[int]) -> int:
    """A discriminator that nobody can guess, and none of those."""
    while (chosen := 1 + secrets.randbelow(0xFFFF_FFFF)) in taken:
        pass
    return chosen
