from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flanneld.tunnel.token_bucket import TokenBucket


def test_a_burst_is_allowed_at_once_and_no_more() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.take(5.0) for _ in range(4)] == [True, True, True, False]


def test_a_token_comes_back_after_its_time() -> None:
    bucket = TokenBucket(rate=10, burst=1)
    assert [bucket.take(now) for now in (0.0, 0.0625, 0.125)] == [True, False, True]


@given(st.lists(st.floats(0, 0.5), max_size=100))
def test_no_more_are_taken_than_rate_and_burst_allow(pauses: list[float]) -> None:
    bucket = TokenBucket(rate=8, burst=4)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        assert taken <= 4 + 8 * now + 1e-6
