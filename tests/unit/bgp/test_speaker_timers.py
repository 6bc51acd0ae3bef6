"""exabgp's timers, mended: by a clock that nobody sets, and not a second late; and that exabgp still needs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

HOLD_S = 9


@pytest.fixture
def stock(exabgp: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """exabgp, which is as it was at the end."""
    from bgp.speaker.launcher import stock

    monkeypatch.setattr(stock.timer, "time", time)
    monkeypatch.setattr(stock.delay, "time", time)
    check = stock.timer.ReceiveTimer.check_ka_timer
    yield stock
    stock.timer.ReceiveTimer.check_ka_timer = check


@pytest.fixture
def mended(stock: Any) -> Any:
    from bgp.speaker.launcher import timers

    timers.mend()
    return stock


class Clocks:
    """Both of them, in a test's hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from bgp.speaker.launcher import timers

        self.of_day = self.steady = 1000.9
        monkeypatch.setattr(time, "time", lambda: self.of_day)
        monkeypatch.setattr(timers.CLOCK, "time", lambda: self.steady)

    def tick(self, seconds: float) -> None:
        self.of_day += seconds
        self.steady += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


class HoldTime:
    """Of exabgp's, as much as is needed."""

    @staticmethod
    def keepalive() -> int:
        return HOLD_S // 3


def timers_of(stock: Any) -> tuple[Any, Any]:
    """A session's, for what is received and for what is sent."""
    return stock.timer.ReceiveTimer(lambda: "session", HOLD_S, 4, 0), stock.timer.SendTimer(lambda: "session", HoldTime())


def silent_for(stock: Any, clocks: Clocks) -> float:
    """How many seconds after its last KEEPALIVE a neighbour is given up."""
    timer = stock.timer.ReceiveTimer(lambda: "session", HOLD_S, 4, 0)
    timer.check_ka(stock.KeepAlive())
    for tenths in range(200):
        try:
            timer.check_ka(stock.NOP)
        except stock.Notify:
            return tenths / 10
        clocks.tick(0.1)
    raise AssertionError("never")


def test_a_neighbour_is_given_up_when_the_hold_time_is_over(mended: Any, clocks: Clocks) -> None:
    assert silent_for(mended, clocks) == pytest.approx(HOLD_S, abs=0.11)


def test_the_stock_timer_is_late(stock: Any, clocks: Clocks) -> None:
    clocks.tick(0.1)
    assert silent_for(stock, clocks) >= HOLD_S + 0.9


def test_a_clock_that_is_set_ends_no_session_and_stops_no_keepalive(mended: Any, clocks: Clocks) -> None:
    receive, send = timers_of(mended)
    for step in (3600, -7200):
        clocks.of_day += step
        receive.check_ka(mended.NOP)
        assert not send.need_ka()
    clocks.tick(HoldTime.keepalive() + 1)
    assert send.need_ka()


def test_the_stock_timers_go_by_the_time_of_day(stock: Any, clocks: Clocks) -> None:
    receive, send = timers_of(stock)
    clocks.of_day -= 3600
    clocks.tick(HoldTime.keepalive() + 1)
    assert not send.need_ka()
    clocks.of_day += 7200
    with pytest.raises(stock.Notify):
        receive.check_ka(stock.NOP)


def test_without_a_hold_time_nobody_is_given_up(mended: Any, clocks: Clocks) -> None:
    timer = mended.timer.ReceiveTimer(lambda: "session", 0, 4, 0)
    clocks.tick(3600)
    assert timer.check_ka_timer(mended.NOP)
    assert not timer.check_ka_timer(mended.KeepAlive())
