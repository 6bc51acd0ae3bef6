"""UPDATEs broken on the way: neither exabgp nor flanneld minds, and what was there stays (RFC 4271 §6.3, RFC 7606)."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

import pytest
import pytest_asyncio
from scapy.contrib.bgp import (
    BGPHeader,
    BGPNLRI_IPv4,
    BGPNLRI_IPv6,
    BGPPAAS4BytesPath,
    BGPPACommunity,
    BGPPALocalPref,
    BGPPAMPReachNLRI,
    BGPPANextHop,
    BGPPAOrigin,
    BGPPathAttr,
    BGPUpdate,
)

from bgp_speaker_stub import HEADER, Ended, Stub, update
from flanneld_world import World, run
from router import eventually, missing
from router_configs import Neighbour
from router_lab import OURS, POOL4, RouterLab, router_hosts, router_lab, speakers_of
from routers import Bird

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing(Bird)), reason=missing(Bird)),
    pytest.mark.asyncio(loop_scope="module"),
]
GOOD, AFTER = IPv4Network("10.244.103.0/24"), IPv4Network("10.244.250.0/24")
COUNT = 2000
NEIGHBOURS = tuple(IPv4Address("10.0.0.100") + number for number in range(8))
"""All on r1: a session that was ended takes a tenth of a second to come back, in which others go on."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with router_hosts("h1", "r1", "r3") as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def lab(world: World) -> AsyncIterator[RouterLab]:
    async with router_lab(world, POOL4) as lab:
        for address in NEIGHBOURS:
            run(lab.host("r1"), f"ip addr replace {address}/24 dev eth0")
        hostile = ({"Address": str(address), "AS": OURS, "Passive": True} for address in NEIGHBOURS)
        lab.configure(*hostile, lab.peer("r3", 65003))
        us = Neighbour(lab.address("h1"), OURS, passive=True)
        await lab.router("r3", Bird, lab.plan("r3", 65003, us, originate=(str(GOOD),)))
        lab.flanneld("h1")
        yield lab


def intact(dice: random.Random) -> bytes:
    """One that is well formed, for prefixes outside of the pool: even the best of them comes to nothing."""
    prefixes = [BGPNLRI_IPv4(prefix=f"192.168.{dice.randrange(256)}.0/24") for _ in range(dice.randrange(1, 4))]
    attributes = [
        BGPPathAttr(type_flags=0x40, type_code=1, attribute=BGPPAOrigin(origin=0)),
        BGPPathAttr(type_flags=0x40, type_code=2, attribute=BGPPAAS4BytesPath(segments=[])),
        BGPPathAttr(type_flags=0x40, type_code=3, attribute=BGPPANextHop(next_hop="10.0.0.12")),
        BGPPathAttr(type_flags=0x40, type_code=5, attribute=BGPPALocalPref(local_pref=100)),
    ]
    if dice.random() < 0.3:
        attributes.append(BGPPathAttr(type_flags=0xC0, type_code=8, attribute=BGPPACommunity(community=dice.getrandbits(32))))
    if dice.random() < 0.2:
        six = BGPNLRI_IPv6(prefix=f"fd00:244:{dice.randrange(4096):x}::/64")
        reach = BGPPAMPReachNLRI(afi=2, safi=1, nh_addr_len=16, nh_v6_addr="fd99::2", nlri=[six])
        attributes.append(BGPPathAttr(type_flags=0x80, type_code=14, attribute=reach))
    return bytes(BGPHeader(type=2) / BGPUpdate(path_attr=attributes, nlri=prefixes))


def broken(said: bytes, dice: random.Random) -> bytes:
    """With bytes changed, left out or put in; the length in the header is right, so that what follows is understood."""
    body = bytearray(said[HEADER.size :])
    place = dice.randrange(len(body))
    match dice.choices(("change", "leave out", "put in"), (6, 2, 2)):
        case ["change"]:
            for _ in range(dice.randrange(1, 5)):
                body[dice.randrange(len(body))] = dice.getrandbits(8)
        case ["leave out"]:
            del body[place : place + dice.randrange(1, 6)]
        case _:
            body[place:place] = dice.randbytes(dice.randrange(1, 9))
    return said[:16] + struct.pack("!H", HEADER.size + len(body)) + said[18:19] + bytes(body)


def told(stub: Stub, lab: RouterLab, messages: list[bytes]) -> Counter[str]:
    """Send them all, one after the other, in as many sessions as it takes; how the sessions ended."""
    ends, rest = Counter[str](), iter(messages)
    message = next(rest, b"")
    while message:
        with stub.connected(lab.address4("h1")) as session, suppress(Ended):
            going_on = session.has_heard_all()
            while message and going_on:
                session.send([message])
                message = next(rest, b"")
                going_on = session.is_heard()
        ends[session.last_word or "us"] += 1
    return ends


async def test_two_thousand_broken_updates_break_nothing(lab: RouterLab) -> None:
    dice = random.Random(16)  # no secret
    wanted = {GOOD: frozenset({lab.address("r3")})}
    await eventually(lambda: asyncio.to_thread(lab.routes, "h1"), lambda routes: routes == wanted)
    exabgp, began = lab.exabgp("h1"), time.monotonic()
    stubs = [Stub(lab.host("r1"), address, OURS) for address in NEIGHBOURS]
    shares = [[broken(intact(dice), dice) for _ in range(COUNT // len(stubs))] for _ in stubs]
    ends = await asyncio.gather(*(asyncio.to_thread(told, stub, lab, share) for stub, share in zip(stubs, shares, strict=True)))
    ended = sum(ends, Counter[str]())
    print(f"{ended.total()} sessions in {time.monotonic() - began:.1f} s, ended by {dict(ended)}")
    assert lab.started["h1"].process.poll() is None
    assert speakers_of(lab.host("h1")) == [exabgp]
    assert lab.routes("h1") == wanted
    with stubs[0].connected(lab.address4("h1")) as session:
        session.send(update([AFTER], lab.address4("r1")))
        both = {**wanted, AFTER: frozenset({lab.address("r1")})}
        await eventually(lambda: asyncio.to_thread(lab.routes, "h1"), lambda routes: routes == both)
    assert not lab.started["h1"].said("bgp speaker lost")
    lab.world.daemons.remove(lab.started["h1"])  # each session is worth two lines
