from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

from flanneld.backend import Refusal
from flanneld.kernel import Report, Route
from flanneld.lease import Lease
from flanneld.peers import MANY_REPAIRS, REPAIRS_S, TRUST_S, Calm, PeerLoop, believed, eligible
from flanneld.program import Programmed
from flanneld.store import StoreError
from peers_of import lease, network

OWN = lease(1)
ROUTE = Route(ip_network("10.244.7.0/24"), 2)


def subnets_of(*leases: Lease) -> dict[tuple[object, ...], Lease]:
    return {one.subnets: one for one in leases}


def test_our_own_lease_and_our_former_ones_are_no_peers() -> None:
    former = replace(lease(5), attrs=OWN.attrs)
    assert eligible(network(), OWN, subnets_of(OWN, former, lease(7))) == ([lease(7)], [])  # type: ignore[arg-type]


def test_a_lease_over_our_own_subnet_is_never_programmed() -> None:
    wide = replace(lease(7), subnets=(ip_network("10.244.0.0/20"),))
    peers, refused = eligible(network(), OWN, subnets_of(OWN, wide))  # type: ignore[arg-type]
    assert peers == []
    assert [(refusal.lease, refusal.foreign) for refusal in refused] == [(wide, False)]


def test_a_lease_outside_the_pod_network_is_left_out() -> None:
    outside = replace(lease(7), subnets=(ip_network("192.0.2.0/24"),))
    peers, refused = eligible(network(), OWN, subnets_of(OWN, outside))  # type: ignore[arg-type]
    assert peers == []
    assert refused[0].why == "lies outside the pod network"


class Recorder:
    """A mesh that writes down whom it is to reach, and does what the test says with it."""

    def __init__(self) -> None:
        self.applied: list[list[Lease]] = []
        self.answer: Exception | tuple[Refusal, ...] = ()
        self.report = Report()
        self.disturbed: list[bool] = []
        self.called = asyncio.Condition()

    async def reach(self, peers: Collection[Lease], *, disturbed: bool) -> Programmed:
        async with self.called:
            self.applied.append(list(peers))
            self.disturbed.append(disturbed)
            self.called.notify_all()
        if isinstance(self.answer, Exception):
            raise self.answer
        return Programmed(self.answer, self.report)

    async def calls(self, count: int) -> None:
        async with self.called:
            await self.called.wait_for(lambda: len(self.applied) >= count)


@asynccontextmanager
async def running(recorder: Recorder, states: list[str]) -> AsyncIterator[PeerLoop]:
    loop = PeerLoop(network(), recorder, OWN, states.append)
    async with asyncio.timeout(10), going(loop):
        yield loop


@asynccontextmanager
async def going(loop: PeerLoop) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_disturbance_applies_the_same_peers_again() -> None:
    recorder, states = Recorder(), list[str]()
    async with running(recorder, states) as loop:
        loop.leases(subnets_of(OWN, lease(7)))  # type: ignore[arg-type]
        await recorder.calls(1)
        loop.disturbed("route")
        await recorder.calls(2)
    assert recorder.applied[:2] == [[lease(7)], [lease(7)]]
    assert states[0] == ""


async def test_nothing_is_applied_before_the_leases_are_known() -> None:
    recorder = Recorder()
    async with running(recorder, []) as loop:
        loop.disturbed("route")
        await asyncio.sleep(0.01)
    assert recorder.applied == []


async def test_a_failure_is_the_state_and_is_tried_again() -> None:
    recorder, states = Recorder(), list[str]()
    recorder.answer = StoreError("the kernel is gone")
    async with running(recorder, states) as loop:
        loop.leases(subnets_of(OWN))  # type: ignore[arg-type]
        await recorder.calls(2)
        recorder.answer = ()
        await recorder.calls(len(recorder.applied) + 1)
        await asyncio.sleep(0)
    assert states[0] == "the kernel is gone"
    assert states[-1] == ""


async def test_a_refused_peer_keeps_a_new_host_unready_but_not_one_that_was_ready() -> None:
    refusal = Refusal(lease(7), "is out of reach")
    for before, expected in ((refusal,), "peer 10.244.7.0/24 is out of reach"), ((), ""):
        recorder, states = Recorder(), list[str]()
        recorder.answer = before
        async with running(recorder, states) as loop:
            loop.leases(subnets_of(OWN, lease(7)))  # type: ignore[arg-type]
            await recorder.calls(1)
            recorder.answer = (refusal,)
            loop.disturbed("route")
            await recorder.calls(2)
            await asyncio.sleep(0)
        assert states[-1] == expected


async def test_a_host_that_speaks_another_method_does_not_hold_up_readiness() -> None:
    recorder, states = Recorder(), list[str]()
    recorder.answer = (Refusal(lease(7), "speaks udp, not vxlan", foreign=True),)
    async with running(recorder, states) as loop:
        loop.leases(subnets_of(OWN, lease(7)))  # type: ignore[arg-type]
        await recorder.calls(1)
        await asyncio.sleep(0)
    assert states == [""]


async def test_a_repair_is_what_changed_although_only_the_kernel_did() -> None:
    recorder = Recorder()
    recorder.report = Report(added=frozenset({ROUTE}))
    async with running(recorder, []) as loop:
        loop.leases(subnets_of(OWN, lease(7)))  # type: ignore[arg-type]
        await recorder.calls(1)
        await asyncio.sleep(0)
        assert not loop.rounds.repairs
        loop.disturbed("route")
        await recorder.calls(2)
        await asyncio.sleep(0)
        assert loop.rounds.repairs == {("route", "route"): 1}
    assert recorder.disturbed == [False, True]


async def test_a_store_that_forgot_us_takes_no_peer_away_before_it_has_known_us_again_for_a_while() -> None:
    recorder, now_s = Recorder(), [0.0]
    loop = PeerLoop(network(), recorder, OWN, lambda why: None, lambda: now_s[0])
    async with asyncio.timeout(10), going(loop):
        loop.leases(subnets_of(OWN, lease(7), lease(8)))  # type: ignore[arg-type]
        await recorder.calls(1)
        loop.leases({})
        await recorder.calls(2)
        loop.leases(subnets_of(lease(9)))  # type: ignore[arg-type]
        await recorder.calls(3)
        loop.leases(subnets_of(OWN, lease(8)))  # type: ignore[arg-type]
        await recorder.calls(4)
        now_s[0] += TRUST_S
        loop.disturbed("route")
        await recorder.calls(5)
    assert [sorted(map(str, peers)) for peers in recorder.applied[:5]] == [
        ["10.244.7.0/24", "10.244.8.0/24"],
        ["10.244.7.0/24", "10.244.8.0/24"],
        ["10.244.7.0/24", "10.244.8.0/24", "10.244.9.0/24"],
        ["10.244.7.0/24", "10.244.8.0/24"],
        ["10.244.8.0/24"],
    ]


async def test_a_store_that_was_away_is_given_the_same_time() -> None:
    recorder, now_s = Recorder(), [0.0]
    loop = PeerLoop(network(), recorder, OWN, lambda why: None, lambda: now_s[0])
    async with asyncio.timeout(10), going(loop):
        loop.leases(subnets_of(OWN, lease(7)))  # type: ignore[arg-type]
        await recorder.calls(1)
        loop.leases(subnets_of(OWN), relisted=True)  # type: ignore[arg-type]
        await recorder.calls(2)
        now_s[0] += TRUST_S
        loop.leases(subnets_of(OWN))  # type: ignore[arg-type]
        await recorder.calls(3)
    assert [len(peers) for peers in recorder.applied[:3]] == [1, 1, 0]


def test_what_a_forgetful_store_says_goes_before_what_it_said() -> None:
    moved = replace(lease(7), attrs=lease(9).attrs)
    assert believed(subnets_of(moved), subnets_of(lease(7), lease(8))) == subnets_of(moved, lease(8))  # type: ignore[arg-type]


def test_two_programs_that_undo_each_others_work_slow_down() -> None:
    now_s = [0.0]
    calm = Calm(lambda: now_s[0])
    assert [calm.repaired() for _ in range(MANY_REPAIRS)] == [True] * (MANY_REPAIRS - 1) + [False]
    assert calm.pause_s() > 0
    now_s[0] += REPAIRS_S
    assert calm.pause_s() == 0
    assert calm.repaired()
