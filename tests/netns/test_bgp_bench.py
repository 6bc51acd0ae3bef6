"""What `./dev bench bgp` measures can be measured; how fast it is, is for the bench to say."""

from __future__ import annotations

import pytest

from bgp_bench_faults import dead
from bgp_bench_mesh import announced, idle, mesh
from bgp_bench_router import received
from bgp_world import HOLD_S
from router import missing
from routers import Bird


def test_a_mesh_is_timed_from_its_start_to_its_last_route_and_so_is_one_prefix_more() -> None:
    with mesh(3) as made:
        assert made.began < made.done
        assert made.began < made.running
        found = announced(made, times=2)
        assert {name: len(times) for name, times in found.items()} == {"came_any": 2, "came_all": 2, "went_all": 2}
        assert all(0 < any_ms <= all_ms for any_ms, all_ms in zip(found["came_any"], found["came_all"], strict=True))
        assert all(used.flanneld + used.exabgp + used.relay == used.total > 0 for used in idle(made, 0.5))


@pytest.mark.skipif(bool(missing(Bird)), reason=missing(Bird))
def test_a_routers_routes_are_timed_as_they_come_and_go() -> None:
    (found,) = received(20, rounds=1)
    assert min(found.came_s, found.went_s, found.usage.total) > 0


def test_a_death_is_timed() -> None:
    (gone_s,) = dead(1, bfd=True)
    assert 0 < gone_s < HOLD_S
