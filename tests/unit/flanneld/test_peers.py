from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

from flanneld.backend import Refusal
from flanneld.kernel import Owner
from flanneld.lease import Lease, LeaseAttrs
from flanneld.peers import PeerLoop, eligible
from flanneld.store import StoreError
from peers_of import lease, network

OWN = lease(1)


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
    """A Network that writes down what it is asked to apply, and does what the test says with it."""

    attrs = LeaseAttrs(())
    mtu = 1500
    owner = Owner()

    def __init__(self) -> None:
        self.applied: list[list[Lease]] = []
        self.answer: Exception | tuple[Refusal, ...] = ()
        self.called = asyncio.Condition()

    async def adopt(self, own: Lease) -> None: ...

    async def run(self) -> None: ...

    async def apply(self, peers: Collection[Lease]) -> tuple[Refusal, ...]:
        async with self.called:
            self.applied.append(list(peers))
            self.called.notify_all()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def calls(self, count: int) -> None:
        async with self.called:
            await self.called.wait_for(lambda: len(self.applied) >= count)


@asynccontextmanager
async def running(recorder: Recorder, states: list[str]) -> AsyncIterator[PeerLoop]:
    loop = PeerLoop(network(), recorder, OWN, states.append)
    task = asyncio.create_task(loop.run())
    try:
        async with asyncio.timeout(10):
            yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_disturbance_applies_the_same_peers_again() -> None:
    recorder, states = Recorder(), list[str]()
    async with running(recorder, states) as loop:
        loop.leases(subnets_of(OWN, lease(7)))  # type: ignore[arg-type]
        await recorder.calls(1)
        loop.disturbed()
        await recorder.calls(2)
    assert recorder.applied[:2] == [[lease(7)], [lease(7)]]
    assert states[0] == ""


async def test_nothing_is_applied_before_the_leases_are_known() -> None:
    recorder = Recorder()
    async with running(recorder, []) as loop:
        loop.disturbed()
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
            loop.disturbed()
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
