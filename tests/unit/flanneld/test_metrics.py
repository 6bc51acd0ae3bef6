from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from flanneld.metrics import Exporter, Metric, counter, counters, gauge, gauges, histogram, info, render
from flanneld.tally import BOUNDS_S, Histogram

numbers = st.floats(allow_nan=False) | st.integers(0, 2**53).map(float)


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, as Prometheus' own parser reads it."""
    families = text_string_to_metric_families(text)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


@given(st.dictionaries(st.text(min_size=1), numbers, max_size=4))
def test_whatever_is_in_a_label_and_whatever_the_number_is_it_is_read_again(values: dict[str, float]) -> None:
    read = parsed(render([gauges("flanneld_x", "Help.", "label", values)]))
    assert read == {("flanneld_x", frozenset({("label", key)})): value for key, value in values.items()}


def test_each_kind_is_told_with_its_help_and_type() -> None:
    text = render([gauge("a", "A.", 1), counter("b_total", "B.", 2), info("c", "C.", {"of": "it"}), gauge("none", "None.", None)])
    assert text == (
        "# HELP a A.\n# TYPE a gauge\na 1\n# HELP b_total B.\n# TYPE b_total counter\nb_total 2\n"
        '# HELP c C.\n# TYPE c gauge\nc{of="it"} 1\n# HELP none None.\n# TYPE none gauge\n'
    )


@given(st.lists(st.floats(0, 20), max_size=30))
def test_buckets_hold_all_up_to_their_bound(durations: list[float]) -> None:
    tally = Histogram()
    for duration in durations:
        tally.observe(duration)
    read = parsed(render([histogram("h", "H.", tally)]))
    for bound in BOUNDS_S:
        assert read["h_bucket", frozenset({("le", str(bound))})] == sum(duration <= bound for duration in durations)
    assert read["h_bucket", frozenset({("le", "+Inf")})] == read["h_count", frozenset()] == len(durations)
    assert abs(read["h_sum", frozenset()] - sum(durations)) < 1e-6


def test_a_scrape_asks_every_source_anew() -> None:
    exporter, values = Exporter(), [1.0]
    assert exporter.text() == ""
    exporter.add(lambda: [gauge("a", "A.", values[0])])
    exporter.add(lambda: iter(list[Metric]()))
    values[0] = 3
    assert parsed(exporter.text()) == {("a", frozenset()): 3}
    assert counters("d_total", "D.", []).samples == ()
