"""docs/bgp.md names every setting and every metric, and no other; and what metrics say."""

from __future__ import annotations

import re
from pathlib import Path as File

from bgp.aim import Aim
from bgp.config import KEYS
from bgp.events import Announced, EndOfRib, Up
from bgp.exports import Origination
from bgp.measures import measures
from bgp.neighbours import Neighbour, Neighbourhood
from bgp.peer import MaxPrefix
from bgp.router import Router
from bgp.topology import Role
from bgp_announcements import OUR_SUBNET, POLICY, SUBNET, US, info, peer, told
from bgp_scripted_speaker import opened, scripted, synced

DOCUMENT = (File(__file__).parents[3] / "docs/bgp.md").read_text()
NEIGHBOURS = tuple(Neighbour(info(number).session, Role.MESH, (), (), MaxPrefix(100), None, frozenset()) for number in (2, 3))


def values(router: Router) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {metric.name: [(dict(labels), value) for _, labels, value in metric.samples] for metric in measures(router)}


def test_every_setting_is_documented_and_every_documented_setting_is_one() -> None:
    settings = DOCUMENT[DOCUMENT.index("## Settings") : DOCUMENT.index("### Peers")]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in settings.splitlines() if line.startswith("| `")]
    assert sorted(name.lower() for names in rows for name in names) == sorted(KEYS)


async def test_every_metric_is_documented_and_every_documented_metric_is_one() -> None:
    documented = re.findall(r"^\| `(flanneld_\w+)` \| (\w+) \|", DOCUMENT, re.MULTILINE)
    async with scripted() as scene:
        assert documented == [(metric.name, metric.kind) for metric in measures(scene.router)]


async def test_metrics_say_how_sessions_and_paths_are() -> None:
    async with scripted() as scene:
        scene.router.follow(Aim(Neighbourhood(NEIGHBOURS), Origination((OUR_SUBNET,), addresses=(US,)), POLICY))
        bad = told(2, "0.0.0.0/0")
        await scene.says(synced(), opened(peer(2)), Up(peer(2)), Announced(peer(2), (told(2, SUBNET), bad)), EndOfRib(peer(2), 4))
        found = values(scene.router)
    assert found["flanneld_bgp_speaker_up"] == [({}, 1)]
    assert found["flanneld_bgp_session_up"] == [({"peer": "10.0.0.2"}, 1), ({"peer": "10.0.0.3"}, 0)]
    assert found["flanneld_bgp_paths"] == [({"peer": "10.0.0.2"}, 1), ({"peer": "10.0.0.3"}, 0)]
    assert found["flanneld_bgp_paths_refused"] == [({"peer": "10.0.0.2", "reason": "default-route"}, 1)]
    assert (found["flanneld_bgp_announced"], found["flanneld_bgp_prefixes"]) == ([({"peer": "10.0.0.2"}, 1)], [({}, 1)])
