"""Two BFD sessions and a wire between them that delays and loses; time passes only here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from bgp.bfd.packet import BfdError, ControlPacket, State, decode_control
from bgp.bfd.session import BfdSession, Timing

FAST = Timing(100_000, 3)
DELAY_S = 0.001


@dataclass(frozen=True)
class Sent:
    at: float
    by: BfdSession
    packet: ControlPacket


class Wire:
    def __init__(
        self,
        timings: tuple[Timing, Timing] = (FAST, FAST),
        random: Callable[[], float] = lambda: 0.0,
        lost: Callable[[ControlPacket], bool] = lambda packet: False,
    ) -> None:
        self.now = 100.0
        self.random, self.lost = random, lost
        self.a, self.b = (BfdSession(number, timing, random) for number, timing in zip((1001, 1002), timings, strict=True))
        self.sent: list[Sent] = []
        self.refused: list[BfdError] = []
        self.states: list[tuple[BfdSession, State]] = []
        self._on_the_way: list[tuple[float, BfdSession, bytes]] = []

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while (then := self._next()) <= end:
            self._go_to(then)
        self._go_to(end)

    def run_until(self, condition: Callable[[], bool], seconds: float = 60.0) -> float:
        """Let time pass until the condition holds; how long that took."""
        began = self.now
        while not condition():
            self._go_to(self._next())
            assert self.now - began < seconds
        return self.now - began

    def up(self) -> bool:
        return self.a.state is self.b.state is State.UP

    def restart_b(self, number: int, timing: Timing = FAST) -> None:
        """The neighbour loses its memory."""
        self.b = BfdSession(number, timing, self.random)

    def packets(self, by: BfdSession, since: float = 0.0) -> list[Sent]:
        return [sent for sent in self.sent if sent.by is by and sent.at >= since]

    def _next(self) -> float:
        """When something happens next: never if nobody has anything to say, or to wait for."""
        timers = [time for end in (self.a, self.b) for time in (end.next_send(self.now), end.detection_deadline())]
        return min((at for at in (*timers, *(at for at, _, _ in self._on_the_way)) if at is not None), default=inf)

    def _go_to(self, then: float) -> None:
        self.now = max(self.now, then)
        arrived = [entry for entry in self._on_the_way if entry[0] <= self.now]
        self._on_the_way = [entry for entry in self._on_the_way if entry[0] > self.now]
        for _, sender, data in arrived:
            self._deliver(self.b if sender is self.a else self.a, data)
        for end in (self.a, self.b):
            end.expire(self.now)
            self._note(end)
            while (packet := end.send(self.now)) is not None:
                self.sent.append(Sent(self.now, end, packet))
                if not self.lost(packet):
                    self._on_the_way.append((self.now + DELAY_S, end, packet.encode()))

    def _deliver(self, receiver: BfdSession, data: bytes) -> None:
        try:
            receiver.receive(decode_control(data), self.now)
        except BfdError as error:
            self.refused.append(error)
        self._note(receiver)

    def _note(self, end: BfdSession) -> None:
        if [state for known, state in self.states if known is end][-1:] != [end.state]:
            self.states.append((end, end.state))
