"""Our BFD against BIRD's and FRR's, over a switch that can be cut."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from bfd_world import DEVICE, NETWORKS, V4, BfdWorld, address, settings
from bgp.bfd.packet import State
from bgp.bfd.service import ADMINISTRATIVELY_DOWN
from flanneld.lease import IPAddress
from router import Router, eventually, missing
from routers import Bird, Frr

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing(Bird, Frr)), reason=missing(Bird, Frr))]

Watcher: TypeAlias = type[Bird] | type[Frr]
each_kind = pytest.mark.parametrize("kind", [Bird, Frr])
each_network = pytest.mark.parametrize("network", NETWORKS)
A4, B4 = address(V4, "a"), address(V4, "b")

BIRD = """
router id 192.0.2.2;
protocol device {{ }}
protocol bfd {{
    interface "{device}" {{ min rx interval {interval_ms} ms; min tx interval {interval_ms} ms; multiplier {multiplier}; }};
    neighbor {peer} dev "{device}" local {local};
}}
"""
FRR = """
bfd
 peer {peer} local-address {local} interface {device}
  detect-multiplier {multiplier}
  receive-interval {interval_ms}
  transmit-interval {interval_ms}
 exit
exit
"""


def text(kind: Watcher, network: str = V4, interval_ms: int = 100, multiplier: int = 10) -> str:
    """The configuration of a router on host b that watches host a."""
    ends = {"peer": address(network, "a"), "local": address(network, "b"), "device": DEVICE}
    return (BIRD if kind is Bird else FRR).format(**ends, interval_ms=interval_ms, multiplier=multiplier)


@asynccontextmanager
async def watching(world: BfdWorld, kind: Watcher, network: str = V4) -> AsyncIterator[Router]:
    """A router that watches us, and is up, as we are."""
    world.a.follow({address(network, "b"): settings(network, "a")})
    told = len(world.a.told)
    async with kind(Path(world.path("b")), text(kind, network)) as router:
        await told_by(world, told + 1)
        await eventually(router.bfd_sessions, lambda up: up == {address(network, "a"): True})
        yield router


async def told_by(world: BfdWorld, count: int) -> None:
    """Return when our service has told so many changes."""

    async def look() -> list[tuple[IPAddress, bool, str]]:
        return world.a.told

    await eventually(look, lambda told: len(told) >= count)


async def our_timing(router: Router) -> tuple[int, int]:
    """Of our interval and multiplier what the router goes by; the interval in milliseconds, and the slower end's if it is BIRD."""
    if isinstance(router, Frr):
        (peer,) = json.loads(await router.ask("show bfd peers json"))
        return peer["remote-transmit-interval"], peer["remote-detect-multiplier"]
    row = next(line for line in (await router.ask("show bfd sessions")).splitlines() if DEVICE in line)
    interval_s, timeout_s = map(float, row.split()[-2:])
    return round(interval_s * 1000), round(timeout_s / interval_s)


@pytest.fixture
def world() -> Iterator[BfdWorld]:
    made = BfdWorld()
    with made.up("a"):
        yield made


@each_kind
@each_network
async def test_both_are_up_and_a_cut_link_takes_both_down_until_it_is_mended(world: BfdWorld, kind: Watcher, network: str) -> None:
    us, them = (address(network, host) for host in "ab")
    async with watching(world, kind, network) as router:
        world.cut("b")
        await told_by(world, 2)
        await eventually(router.bfd_sessions, lambda up: up == {us: False})
        world.mend("b")
        await told_by(world, 3)
        await eventually(router.bfd_sessions, lambda up: up == {us: True})
    assert world.a.told[:3] == [(them, True, "none"), (them, False, "detection time expired"), (them, True, "none")]


@each_kind
async def test_our_other_intervals_are_agreed_upon_while_the_session_runs(world: BfdWorld, kind: Watcher) -> None:
    async with watching(world, kind) as router:
        for interval_ms, multiplier in ((400, 5), (100, 20), (250, 8)):
            world.a.follow({B4: settings(V4, "a", interval_ms, multiplier)})
            await eventually(lambda: our_timing(router), lambda timing, agreed=(interval_ms, multiplier): timing == agreed)  # type: ignore[misc]
        assert world.a.told == [(B4, True, "none")]


@each_kind
async def test_its_other_intervals_are_agreed_upon_while_the_session_runs(world: BfdWorld, kind: Watcher) -> None:
    async with watching(world, kind) as router:
        for interval_ms in (300, 60, 200):
            await router.configure(text(kind, interval_ms=interval_ms))
            await asyncio.sleep(2)
        assert world.a.told == [(B4, True, "none")]
        assert await router.bfd_sessions() == {A4: True}


@each_kind
async def test_it_hears_of_the_end_of_our_session_before_the_detection_time(world: BfdWorld, kind: Watcher) -> None:
    async with watching(world, kind) as router:
        world.a.follow({B4: settings(V4, "a", 5000, 20)})
        await eventually(lambda: our_timing(router), lambda timing: timing == (5000, 20))
        ended_at = time.monotonic()
        world.a.follow({})
        await eventually(router.bfd_sessions, lambda up: up == {A4: False})
        assert time.monotonic() - ended_at < 30


@each_kind
async def test_one_that_is_started_anew_is_up_again(world: BfdWorld, kind: Watcher) -> None:
    async with watching(world, kind) as router:
        await router.kill()
        await told_by(world, 2)
        await router.start()
        await told_by(world, 3)
        await router.stop()
        await told_by(world, 4)
        assert world.a.state(B4) is State.DOWN
    assert world.a.told[1] == (B4, False, "detection time expired")
    assert world.a.told[3] in [(B4, False, ADMINISTRATIVELY_DOWN), (B4, False, "detection time expired")]
