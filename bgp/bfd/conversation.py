"""One session on the wire: its timer, and what it sends; must not know which sessions there are to be.

A session is never given up before all that had arrived was read: the loop may have been busy with other things while the neighbour
spoke.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from bgp.bfd import sockets
from bgp.bfd.packet import ControlPacket, Diagnostic, State, describe
from bgp.bfd.session import BfdSession, Timing
from flanneld.lease import IPAddress


class Sender:
    """Sends to one neighbour."""

    def __init__(self, opened: socket.socket, place: sockets.Place, peer: IPAddress) -> None:
        """`opened` is closed by `close`."""
        self._socket = opened
        self._address = sockets.socket_address(place, peer, sockets.PORT)

    @property
    def port(self) -> int:
        """The source port."""
        return int(self._socket.getsockname()[1])

    def send(self, packet: ControlPacket) -> None:
        """Raises OSError when the kernel does not take it."""
        self._socket.sendto(packet.encode(), self._address)

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Whom a session calls."""

    drain: Callable[[], None]
    """Bring in all that has arrived."""
    changed: Callable[[bool, str], None]
    """The session has come up, or is not up any more; and why. Called between two turns of the loop."""
    send_failed: Callable[[OSError], None]


class Conversation:
    """A session that runs in the event loop from its making on, until `end`."""

    def __init__(self, session: BfdSession, sender: Sender, around: Surroundings) -> None:
        self._session = session
        self._sender = sender
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._up = False
        self._go_on(self._loop.time())

    @property
    def state(self) -> State:
        return self._session.state

    @property
    def discriminator(self) -> int:
        return self._session.discriminator

    @property
    def source_port(self) -> int:
        return self._sender.port

    def take(self, packet: ControlPacket) -> None:
        """A packet of the neighbour's; raises BfdError when it is of another session."""
        now = self._loop.time()
        self._session.receive(packet, now)
        self._go_on(now)

    def retime(self, timing: Timing) -> None:
        """Run with other intervals from when the neighbour has agreed."""
        self._session.retime(timing)
        self._go_on(self._loop.time())

    def end(self) -> None:
        """Say AdminDown, and nothing after it."""
        self._session.disable()
        self._go_on(self._loop.time())
        if self._timer is not None:
            self._timer.cancel()
        self._sender.close()

    def _wake(self) -> None:
        self._timer = None
        deadline = self._session.detection_deadline()
        if deadline is not None and self._loop.time() >= deadline:
            self._around.drain()
        now = self._loop.time()
        self._session.expire(now)
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """Whatever has happened: send what is due, be there when the next is, and tell."""
        while (packet := self._session.send(now)) is not None:
            try:
                self._sender.send(packet)
            except OSError as error:
                self._around.send_failed(error)
        self._arm(now)
        up = self._session.state is State.UP
        if up != self._up:
            self._up = up
            # A neighbour that ends its session has signalled Down like one that lost it, and means another thing (RFC 5882 §3.2).
            ended = self._session.neighbour_state is State.ADMIN_DOWN
            diagnostic = Diagnostic.ADMINISTRATIVELY_DOWN if ended else self._session.diagnostic
            self._loop.call_soon(self._around.changed, up, describe(diagnostic))

    def _arm(self, now: float) -> None:
        """Wake when there is something to do; a timer that comes too early is left, and armed anew when it has come."""
        times = (self._session.next_send(now), self._session.detection_deadline())
        when = min((time for time in times if time is not None), default=None)
        if when is None or (self._timer is not None and self._timer.when() <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._wake)
