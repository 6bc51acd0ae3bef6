"""How the routers that tests speak with start, change, end, and leave nothing."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from netns_programs import ProgramError
from router import Router, SessionState, established, eventually, missing
from router_configs import Neighbour
from router_world import OURS, THEIRS, World, knows, router_world
from routers import ROUTERS, Bird, Frr

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing(*ROUTERS)), reason=missing(*ROUTERS))]

each_kind = pytest.mark.parametrize("kind", ROUTERS)
NONSENSE = "\nthis is no statement\n"
FRR_FILES = ("/etc/frr", "/run/frr", "/var/lib/frr", "/var/log/frr", "/var/tmp/frr")  # noqa: S108  # looked for, not used


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with router_world("one", "other") as world:
        yield world


def beside(kind: type[Router]) -> type[Router]:
    """One of another kind, to tell what this one does."""
    return Bird if kind is Frr else Frr


def frr_files() -> list[str]:
    """Those of an FRR that the machine's owner has installed."""
    return [path for path in FRR_FILES if os.path.exists(path)]


def inhabitants(netns: Path) -> list[str]:
    """The processes in a network namespace."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if (entry / "ns/net").stat().st_ino == netns.stat().st_ino:
                found.append(entry.name)
    return found


async def meetings(router: Router) -> object:
    """Something that is never the same again after a session of BIRD's or FRR's has fallen."""
    if isinstance(router, Bird):
        return await router.ask("show protocols")  # with times
    return re.findall(r'"connectionsEstablished":(\d+)', await router.ask("show bgp neighbors json"))


@each_kind
async def test_neighbours_keep_the_routes_of_one_that_was_killed(world: World, kind: type[Router]) -> None:
    one, other = await world.pair((beside(kind), kind))
    await knows(one, world.prefix("other"), world.address("other"))
    await knows(other, world.prefix("one"), world.address("one"))
    await other.kill()
    await eventually(one.sessions, lambda states: SessionState.ESTABLISHED not in states.values())
    await knows(one, world.prefix("other"), world.address("other"))
    assert (await other.kernel_routes()).keys() == ({world.prefix("one")} if other.KERNEL_PROTOCOL else set())
    await other.start()
    await established(one, world.address("other"))
    await knows(one, world.prefix("other"), world.address("other"))


@each_kind
async def test_neighbours_forget_the_routes_of_one_that_was_stopped(world: World, kind: type[Router]) -> None:
    one, other = await world.pair((beside(kind), kind))
    await knows(one, world.prefix("other"), world.address("other"))
    await other.stop()
    await eventually(one.routes, lambda routes: not routes)
    assert not await other.kernel_routes()


@each_kind
async def test_another_text_leaves_the_sessions_that_are_in_both(world: World, kind: type[Router]) -> None:
    one, other = await world.pair((beside(kind), kind))
    await knows(one, world.prefix("other"), world.address("other"))
    before = await meetings(one)
    same = Neighbour(world.address("one"), OURS, source=world.address("other"), passive=True)
    plan = world.plan("other", OURS, same, Neighbour(world.address("one") + 8, THEIRS, graceful_restart=False))
    await other.configure(other.render(replace(plan, originate=(world.prefix("one").supernet(),))))
    await knows(one, world.prefix("one").supernet(), world.address("other"))
    assert world.prefix("other") not in await one.routes()
    assert (await other.sessions()).keys() == {same.address, same.address + 8}
    assert await meetings(one) == before


@each_kind
async def test_a_text_that_it_does_not_understand_changes_nothing(world: World, kind: type[Router]) -> None:
    one, other = await world.pair((beside(kind), kind))
    before, text = await meetings(one), other.text
    with pytest.raises(ProgramError):
        await other.configure(text + NONSENSE)
    assert other.text == text
    assert await meetings(one) == before


@each_kind
async def test_one_that_does_not_understand_its_text_does_not_start(world: World, kind: type[Router]) -> None:
    router = kind(world.segment.hosts["one"].path, kind.render(world.plan("one", OURS)) + NONSENSE)
    with pytest.raises(ProgramError, match="ended"):
        await router.__aenter__()
    assert not router.programs.directory.exists()


@each_kind
async def test_nothing_is_left(world: World, kind: type[Router]) -> None:
    before = frr_files()
    async with kind.planned(world.segment.hosts["one"].path, world.plan("one", OURS)) as router:
        assert router.programs.directory.parent == Path(tempfile.gettempdir())
        assert inhabitants(world.segment.hosts["one"].path)
    assert not router.programs.directory.exists()
    assert not inhabitants(world.segment.hosts["one"].path)
    assert frr_files() == before
