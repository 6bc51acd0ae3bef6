"""Whatever is called in whatever order, whoever is killed meanwhile: journal, kernel and files say the same, and it is right."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_model import Model
from cni_processes import Nursery, nursery, served_host
from cni_story import BRIDGED, NETWORKS, ROUTED, Call, Collect, EndPod, Restart, Step, Together, distinct

EXAMPLES = int(os.environ.get("TARTAN_CNI_STORIES", "50"))
"""More than that are drawn anew each time."""
LONGEST = 10

containers = st.sampled_from(["c1", "c2", "c3"])
networks = st.sampled_from(sorted(NETWORKS))
calls = st.builds(
    Call,
    st.sampled_from(["ADD", "ADD", "ADD", "DEL", "CHECK"]),
    networks,
    containers,
    st.sampled_from([0, 8001, 8002]),
    st.booleans(),
)
deaths = st.none() | st.integers(0, 24).map(lambda half_ms: half_ms / 2000)
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(Together, st.lists(calls, min_size=1, max_size=3).map(distinct), deaths, st.booleans()),
    st.builds(Together, st.lists(calls, min_size=1, max_size=4).map(distinct)),
    st.builds(Collect, networks, st.frozensets(containers)),
    st.builds(EndPod, containers),
    st.builds(Restart, st.sampled_from([signal.SIGKILL, signal.SIGTERM])),
)


@pytest.fixture(scope="module")
def servers() -> Iterator[Nursery]:
    with nursery() as forking:
        yield forking


def play(servers: Nursery, directory: Path, story: list[Step]) -> None:
    with served_host(servers, directory) as served:
        model = Model(served)
        model.begin()
        for step in story:
            model.play(step)
        model.settle()


@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(story=st.lists(steps, min_size=2, max_size=LONGEST))
def test_after_any_story_journal_kernel_and_files_are_those_of_the_living(
    servers: Nursery, tmp_path: Path, story: list[Step]
) -> None:
    play(servers, tmp_path, story)


def test_a_story_of_everything(servers: Nursery, tmp_path: Path) -> None:
    added = tuple(Call("ADD", name, f"c{n}", 8000 + n) for name in NETWORKS for n in range(1, 4))
    story: list[Step] = [
        Together(added),
        Together(tuple(Call("CHECK", call.network, call.container) for call in added), 0.004, revive=True),
        EndPod("c1"),
        Together((Call("ADD", BRIDGED.name, "c1", 8002), Call("DEL", ROUTED.name, "c2", told=False))),
        Collect(BRIDGED.name, frozenset({"c2"})),
        Restart(signal.SIGTERM),
        Together((Call("ADD", BRIDGED.name, "c3", 8003), Call("DEL", BRIDGED.name, "c2"))),
    ]
    play(servers, tmp_path, story)
