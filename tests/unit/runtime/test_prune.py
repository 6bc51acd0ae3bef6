import pytest

from runtime import clock
from runtime.errors import InvalidParameter
from runtime.prune import PruneFilter, parse_prune, parse_until

HOUR_NS = 3600 * 10**9
NOW_NS = 1_700_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "before_ns"),
    [
        ("1h", NOW_NS - HOUR_NS),
        ("1h30m", NOW_NS - HOUR_NS * 3 // 2),
        ("1600000000", 1_600_000_000 * 10**9),
        ("1600000000.5", 1_600_000_000_500_000_000),
        ("2020-09-13T12:26:40Z", 1_600_000_000 * 10**9),
    ],
)
def test_until_takes_durations_and_times(text: str, before_ns: int) -> None:
    assert parse_until(text, NOW_NS) == before_ns


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        ({"until": ["soon"]}, "failed to parse value"),
        ({"until": ["1h", "2h"]}, "more than one until filter"),
        ({"colour": ["red"]}, "invalid filter 'colour'"),
    ],
)
def test_filters_that_make_no_sense_are_refused(filters: dict[str, list[str]], why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        parse_prune(filters, NOW_NS)


def test_a_filter_takes_what_is_old_enough_and_labelled_so() -> None:
    chosen = parse_prune({"until": ["1h"], "label": ["a", "b=2"], "label!": ["keep"]}, NOW_NS)
    old, young = clock.text_of(NOW_NS - 2 * HOUR_NS), clock.text_of(NOW_NS)
    assert chosen.takes(old, {"a": "", "b": "2"})
    assert not chosen.takes(young, {"a": "", "b": "2"})
    assert not chosen.takes(old, {"a": "", "b": "3"})
    assert not chosen.takes(old, {"a": "", "b": "2", "keep": "1"})
    assert PruneFilter().takes(young, {})
