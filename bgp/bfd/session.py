"""One BFD session as a state machine, asynchronous mode: RFC 5880 §6.8; must not know sockets or a clock.

Whoever holds it passes in what is received and the time, and asks what is to be sent and when:

    session.receive(packet, now)                       # what has come from the neighbour
    while (packet := session.send(now)) is not None:   # what is to go out now
    session.next_send(now), session.detection_deadline()   # when to come back, and then:
    session.expire(now)

The states (§6.2), by ours and what the neighbour says; what is not in the table changes nothing:

    ours    AdminDown  Down   Init  Up
    Down    -          Init   Up    -
    Init    Down       -      Up    Up
    Up      Down       Down   -     -
    Init and Up: Down when the detection time has passed without a packet
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import random as uniform
from types import MappingProxyType

from bgp.bfd.packet import BfdError, ControlPacket, Diagnostic, Drop, State

SLOW_US = 1_000_000
"""Our interval while the session is not Up is at least this (§6.8.3)."""

_NEXT = MappingProxyType(
    {
        (State.DOWN, State.DOWN): State.INIT,
        (State.DOWN, State.INIT): State.UP,
        (State.INIT, State.ADMIN_DOWN): State.DOWN,
        (State.INIT, State.INIT): State.UP,
        (State.INIT, State.UP): State.UP,
        (State.UP, State.ADMIN_DOWN): State.DOWN,
        (State.UP, State.DOWN): State.DOWN,
    }
)


@dataclass(frozen=True, slots=True)
class Timing:
    """What we ask of a session."""

    interval_us: int
    """We would send so often, and can receive so often; 1 at least."""
    multiplier: int
    """1 to 255: the neighbour is to take us for dead after so many of our intervals."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """The intervals that our packets name."""

    tx_us: int
    rx_us: int


class BfdSession:
    """Our end of one session, in the active role: it sends from the start. Times are seconds of any clock that does not go back."""

    def __init__(self, discriminator: int, timing: Timing, random: Callable[[], float] = uniform) -> None:
        """`discriminator` is not 0, and no other session's of this host; `random` returns 0 <= x < 1, once for each packet."""
        self.discriminator = discriminator
        self.state = State.DOWN
        self.diagnostic = Diagnostic.NONE
        """Why the state is what it is."""
        self._timing = timing
        self._random = random
        self._heard: ControlPacket | None = None
        """The neighbour's last packet: all that §6.8.1 calls remote. None: nothing came within the detection time."""
        self._heard_at = 0.0
        self._offered = self._wanted()
        self._tx_us, self._rx_us = self._offered.tx_us, self._offered.rx_us
        """What we act by; it may lag behind what is offered until the neighbour has confirmed that (§6.8.3)."""
        self._polling = False
        self._answering = False
        """A Poll has come, whose answer does not wait for the next interval."""
        self._news = True
        """Our state has changed since the last packet, which does not wait either (§6.8.7)."""
        self._sent_at = 0.0
        self._fraction = 1.0
        """Of the interval, to pass before the next packet."""

    @property
    def neighbour_state(self) -> State:
        """As last heard; Down when nothing is."""
        return State.DOWN if self._heard is None else self._heard.state

    def retime(self, timing: Timing) -> None:
        """Ask for other intervals, which the neighbour confirms; another multiplier is simply told."""
        self._timing = timing
        self._offer()

    def disable(self) -> None:
        """Say AdminDown from now on, and hear nothing any more: the neighbour knows then that nothing has failed (§6.8.16)."""
        self._enter(State.ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN)

    def receive(self, packet: ControlPacket, now: float) -> None:
        """Take one packet of the neighbour's (§6.8.6); raises BfdError when it is meant for a session that is not this one."""
        if packet.your_discriminator not in (0, self.discriminator):
            why = f"your discriminator {packet.your_discriminator}, expected {self.discriminator} or 0"
            raise BfdError(Drop.DISCRIMINATOR, why)
        if self.state is State.ADMIN_DOWN:
            return
        self._heard, self._heard_at = packet, now
        if packet.final and self._polling:
            self._confirmed()
        after = _NEXT.get((self.state, packet.state))
        if after is not None:
            self._enter(after, Diagnostic.NEIGHBOUR_SIGNALLED_DOWN if after is State.DOWN else Diagnostic.NONE)
        self._answering = self._answering or packet.poll

    def send(self, now: float) -> ControlPacket | None:
        """The packet that is due, which counts as sent; None: there is none, or no more."""
        due = self.next_send(now)
        if due is None or now < due:
            return None
        if self._answering:
            self._answering = False
            return self._packet(final=True)
        self._news = False
        self._sent_at = now
        # Up to a quarter sooner, so that hosts do not fall into step; with a multiplier of 1 always sooner (§6.8.7).
        spread = 0.25 * self._random()
        self._fraction = 1 - spread if self._timing.multiplier > 1 else 0.9 - 0.6 * spread
        return self._packet(poll=self._polling)

    def next_send(self, now: float) -> float | None:
        """When there is something to send, which may be `now`; None: not before the neighbour has said something else."""
        if self._answering or self._news:
            return now
        heard = self._heard
        if heard is None:
            return self._sent_at + self._tx_us * self._fraction / 1e6
        quiet = heard.demand and heard.state is self.state is State.UP and not self._polling
        if quiet or heard.required_min_rx_us == 0:
            return None
        return self._sent_at + max(self._tx_us, heard.required_min_rx_us) * self._fraction / 1e6

    def detection_deadline(self) -> float | None:
        """When the neighbour is to be taken for dead if nothing comes before (§6.8.4); None: nothing is expected of it."""
        if self._heard is None or self.state is State.ADMIN_DOWN:
            return None
        return self._heard_at + self._heard.multiplier * max(self._rx_us, self._heard.desired_min_tx_us) / 1e6

    def expire(self, now: float) -> None:
        """Take the neighbour for dead if its time has come; else nothing happens."""
        deadline = self.detection_deadline()
        if deadline is None or now < deadline:
            return
        self._heard = None
        if self.state is State.DOWN:
            self._overtaken()
        else:
            self._enter(State.DOWN, Diagnostic.DETECTION_TIME_EXPIRED)

    def _enter(self, state: State, diagnostic: Diagnostic) -> None:
        self.state, self.diagnostic = state, diagnostic
        self._news = True
        if state is State.UP:
            self._offer()
        else:
            self._overtaken()

    def _wanted(self) -> _Offer:
        interval_us = self._timing.interval_us
        return _Offer(interval_us if self.state is State.UP else max(interval_us, SLOW_US), interval_us)

    def _offer(self) -> None:
        """Tell of our intervals, by a Poll Sequence if they are others now; one that is under way ends first (§6.5)."""
        if self._polling:
            return
        wanted = self._wanted()
        self._polling = wanted != self._offered and self._heard is not None and self.state is not State.ADMIN_DOWN
        self._offered = wanted
        # While Up we neither send more rarely nor expect more than the neighbour knows of.
        unconfirmed = self._polling and self.state is State.UP
        self._tx_us = min(self._tx_us, wanted.tx_us) if unconfirmed else wanted.tx_us
        self._rx_us = max(self._rx_us, wanted.rx_us) if unconfirmed else wanted.rx_us

    def _overtaken(self) -> None:
        """What was to be confirmed while Up does not matter any more."""
        self._polling = False
        self._offer()

    def _confirmed(self) -> None:
        """The neighbour knows what we offer; and if we have changed our mind since, that is next."""
        self._tx_us, self._rx_us = self._offered.tx_us, self._offered.rx_us
        self._polling = False
        self._offer()

    def _packet(self, *, poll: bool = False, final: bool = False) -> ControlPacket:
        return ControlPacket(
            self.state,
            self.discriminator,
            0 if self._heard is None else self._heard.my_discriminator,
            self._offered.tx_us,
            self._offered.rx_us,
            self._timing.multiplier,
            diagnostic=self.diagnostic,
            poll=poll,
            final=final,
        )
