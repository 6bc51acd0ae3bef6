"""Back-off and retry, without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.retry import Backoff, retry


class Calls:
    """A call that fails with each of these errors in turn, then returns 42; it remembers the sleeps between."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.slept: list[float] = []

    async def call(self) -> int:
        if self.errors:
            raise self.errors.pop(0)
        return 42

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)


def test_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(0.1, 1.0, random=lambda: 1.0)
    assert [round(backoff.next(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_reset_begins_again() -> None:
    backoff = Backoff(0.1, 1.0, random=lambda: 1.0)
    first, _ = backoff.next(), backoff.next()
    backoff.reset()
    assert backoff.next() == first


@given(st.floats(0.001, 10), st.floats(0.001, 100), st.floats(0, 1, exclude_max=True), st.integers(1, 20))
def test_a_delay_is_positive_and_never_above_the_cap(first_s: float, cap_s: float, random: float, tries: int) -> None:
    backoff = Backoff(first_s, cap_s, random=lambda: random)
    assert all(0 < backoff.next() <= cap_s for _ in range(tries))


async def test_retry_returns_what_the_call_returns_once_it_does() -> None:
    calls = Calls(OSError("1"), OSError("2"))
    assert await retry(calls.call, OSError, Backoff(1, 9, random=lambda: 1.0), sleep=calls.sleep) == 42
    assert calls.slept == [1, 2]


async def test_retry_lets_other_errors_through_at_once() -> None:
    calls = Calls(OSError("1"), KeyError("2"))
    with pytest.raises(KeyError):
        await retry(calls.call, (OSError, ValueError), Backoff(1, 9), sleep=calls.sleep)
    assert len(calls.slept) == 1


async def test_retry_reports_a_reason_once_until_it_changes() -> None:
    calls = Calls(*(OSError(text) for text in "aabba"))
    said: list[str] = []
    await retry(calls.call, OSError, Backoff(1, 9), failed=lambda error: said.append(str(error)), sleep=calls.sleep)
    assert said == ["a", "b", "a"]
