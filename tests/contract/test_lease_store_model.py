"""Every lease store against a dict: whatever hosts and administrators do, the store holds what the dict holds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from contract.store_world import SMALL, EtcdWorld, MemoryWorld, World, host, nets, wish
from etcd_server import EtcdServer
from flanneld.lease import Lease, LeaseAttrs, Subnets, SubnetsExhausted
from flanneld.store import LeaseLost, owns

T = TypeVar("T")

hosts = st.builds(host, st.integers(1, 5), data=st.sampled_from(["", "1", "2"]))
subnets = st.integers(1, 15).map(lambda place: nets(f"10.5.0.{16 * place}/28"))


class LeaseModel(RuleBasedStateMachine):
    """The subclass says where the stores are."""

    def world_of(self) -> World:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.held: dict[Subnets, Lease] = {}
        self.world = self.run(self._open())

    async def _open(self) -> World:
        world = self.world_of()
        self.store = world.store()
        return world

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.run(self.world.close())
            self.runner.close()

    @rule(attrs=hosts, prefer=st.just(()) | subnets)
    def acquire(self, attrs: LeaseAttrs, prefer: Subnets) -> None:
        mine = [lease.subnets for lease in self.held.values() if owns(attrs, lease)]
        try:
            lease = self.run(self.store.acquire(SMALL, attrs, wish(prefer) if prefer else None))
        except SubnetsExhausted:
            assert not mine
            assert len(self.held) == SMALL.pools[0].size
            return
        if mine:
            assert lease.subnets in ([prefer] if prefer in mine else mine)
            reserved = self.held[lease.subnets].expires_at is None
            assert (lease.expires_at is None) == reserved
        else:
            assert lease.subnets not in self.held
            assert lease.subnets == prefer or not prefer or prefer in self.held
        self.held[lease.subnets] = lease

    @rule(attrs=hosts, which=subnets)
    def renew(self, attrs: LeaseAttrs, which: Subnets) -> None:
        try:
            renewed = self.run(self.store.renew(Lease(which, attrs)))
        except LeaseLost:
            assert which not in self.held or not owns(attrs, self.held[which])
        else:
            assert owns(attrs, self.held[which])
            assert (renewed.expires_at is None) == (self.held[which].expires_at is None)

    @rule(attrs=hosts, which=subnets)
    def hold(self, attrs: LeaseAttrs, which: Subnets) -> None:
        for other, lease in list(self.held.items()):
            if other != which and owns(attrs, lease) and lease.expires_at is not None:
                del self.held[other]
        try:
            held = self.run(self.store.hold(Lease(which, attrs), attrs))
        except LeaseLost:
            assert not owns(attrs, self.held[which])
            return
        before = self.held.get(which)
        assert before is None or owns(attrs, before)
        assert (held.expires_at is None) == (before is not None and before.expires_at is None)
        self.held[which] = held

    @rule(attrs=hosts, which=subnets)
    def release(self, attrs: LeaseAttrs, which: Subnets) -> None:
        self.run(self.store.release(Lease(which, attrs)))
        if which in self.held and owns(attrs, self.held[which]) and self.held[which].expires_at is not None:
            del self.held[which]

    @rule(attrs=hosts, which=subnets)
    def reserve(self, attrs: LeaseAttrs, which: Subnets) -> None:
        self.run(self.world.reserve(which, attrs))
        self.held[which] = Lease(which, attrs)

    @rule(which=subnets)
    def remove(self, which: Subnets) -> None:
        self.run(self.world.remove(which))
        self.held.pop(which, None)

    @invariant()
    def the_store_holds_what_the_dict_holds(self) -> None:
        present = self.run(self.store.leases())
        assert {subnets: _timeless(lease) for subnets, lease in present.items()} == {
            subnets: _timeless(lease) for subnets, lease in self.held.items()
        }


def _timeless(lease: Lease) -> Lease:
    """The lease with any expiry, and any number for its creation, as good as any other."""
    return replace(lease, expires_at=None if lease.expires_at is None else 0, created=0)


def test_memory_store_is_a_dict() -> None:
    class OnMemory(LeaseModel):
        def world_of(self) -> World:
            return MemoryWorld()

    run_state_machine_as_test(OnMemory, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))


def test_etcd_store_is_a_dict(etcd: EtcdServer) -> None:
    class OnEtcd(LeaseModel):
        def world_of(self) -> World:
            return EtcdWorld(etcd)

    run_state_machine_as_test(OnEtcd, settings=settings(max_examples=15, stateful_step_count=15, deadline=None))
