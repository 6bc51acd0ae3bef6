"""/metrics of a running flanneld: what it says is true, documented, and all that the dashboard asks for is there."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flanneld_world import World, eventually, flanneld_world, readyz, run, show
from lab.pods import LabHost
from traffic import address_of, meshed, ping

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with flanneld_world(2) as up:
        one, two = meshed(up)
        assert ping(one, address_of(two))
        yield up


def text(host: LabHost) -> str:
    status, found = readyz(host, path="/metrics")
    assert status == 200
    return found


def scraped(host: LabHost) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and the values of its labels."""
    families = text_string_to_metric_families(text(host))
    return {(sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples}


def names(host: LabHost) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+)", text(host), re.MULTILINE))


def test_a_healthy_host_says_so(world: World) -> None:
    found = scraped(world.lab.host("h1"))
    assert found["flanneld_ready", ()] == 1
    assert found["flanneld_lease_state", ("held",)] == 1
    assert 86000 < found["flanneld_lease_expires_in_seconds", ()] <= 86400
    assert found["flanneld_store_reachable", ()] == 1
    assert found["flanneld_store_watch_silence_seconds", ()] < 10
    assert found["flanneld_peers", ("programmed",)] == 1
    for kind in ("route", "neighbour", "fdb"):
        assert found["flanneld_entries_wanted", (kind,)] == found["flanneld_entries_programmed", (kind,)] == 1
    assert found["flanneld_backend_info", ("vxlan", "current")] == 1
    assert found["flanneld_device_receive_packets_total", ("flannel.1",)] >= 3
    assert found["flanneld_pod_mtu_bytes", ()] == found["flanneld_uplink_mtu_bytes", ()] - 50


def test_a_repair_is_counted_with_its_cause(world: World) -> None:
    host = world.lab.host("h1")
    before = scraped(host).get(("flanneld_repairs_total", ("route", "route")), 0)
    (route,) = show(host, "ip route show proto 84")
    run(host, f"ip route del {route['dst']} proto 84")  # A flush looks again at the end, and takes what was repaired meanwhile.
    eventually(lambda: scraped(host).get(("flanneld_repairs_total", ("route", "route")), 0) == before + 1, "the repair")
    run(host, "nft flush ruleset")
    eventually(lambda: scraped(host)["flanneld_rules_restored_total", ()] == 1, "the rules")


def test_a_store_that_is_away_is_seen(world: World) -> None:
    host = world.lab.host("h1")
    run(world.lab.fabric, "ip link set h1 down")
    eventually(lambda: scraped(host)["flanneld_store_reachable", ()] == 0, "its absence", 30)
    run(world.lab.fabric, "ip link set h1 up")
    eventually(lambda: scraped(host)["flanneld_store_reachable", ()] == 1, "its return", 30)
    assert scraped(host)["flanneld_store_watches_total", ()] == 2


def test_what_is_documented_is_measured_and_what_is_measured_is_documented(world: World) -> None:
    documented = re.findall(r"^\| `(flanneld_\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(names(world.lab.host("h1")))


def test_the_dashboard_asks_for_nothing_else(world: World) -> None:
    board = json.loads((ROOT / "flanneld/grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {re.sub("_bucket$", "", name) for query in queries for name in re.findall(r"flanneld_\w+", query)}
    assert asked <= names(world.lab.host("h1"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_before_there_is_a_network_there_is_nothing_to_measure() -> None:
    with flanneld_world(1) as world:
        world.etcd.delete("/coreos.com/network/config")
        one = world.start("h1")
        eventually(lambda: readyz(one.host)[0] == 503, "an answer")
        assert readyz(one.host, path="/metrics") == (200, "")
        assert one.end(signal.SIGTERM) == 0
