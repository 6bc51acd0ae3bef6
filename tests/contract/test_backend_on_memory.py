"""What every backend that programs the kernel promises, on a kernel in memory; tests/netns runs the same promises on Linux."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.backend import Network, load_backend
from flanneld.kernel import Route
from flanneld.lease import FAMILIES
from memory_kernel import MemoryKernel
from peers_of import lease, network, uplink

KERNEL_BACKENDS = ("vxlan", "host-gw")
kernel_backends = pytest.mark.parametrize("kind", KERNEL_BACKENDS)


@asynccontextmanager
async def attached_to(kernel: MemoryKernel, kind: str) -> AsyncIterator[Network]:
    config = network(f'{{"Type": "{kind}"}}', FAMILIES)
    async with load_backend(config).attach(uplink(FAMILIES), config, kernel) as attached:
        await attached.adopt(lease(1, kind, FAMILIES))
        yield attached


@kernel_backends
@given(st.lists(st.sets(st.integers(2, 40)), max_size=5))
async def test_only_the_last_peers_count(kind: str, rounds: list[set[int]]) -> None:
    once, after_all = MemoryKernel(), MemoryKernel()
    last = [lease(n, kind, FAMILIES) for n in (rounds[-1] if rounds else ())]
    async with attached_to(once, kind) as attached:
        await attached.apply(last)
    async with attached_to(after_all, kind) as attached:
        for peers in rounds:
            await attached.apply([lease(n, kind, FAMILIES) for n in peers])
    assert once.present == after_all.present


@kernel_backends
async def test_the_same_peers_again_touch_nothing(kind: str) -> None:
    kernel = MemoryKernel()
    async with attached_to(kernel, kind) as attached:
        await attached.apply([lease(7, kind, FAMILIES)])
        kernel.calls.clear()
        await attached.apply([lease(7, kind, FAMILIES)])
    assert kernel.calls == []


@kernel_backends
async def test_what_an_earlier_run_left_is_taken_over(kind: str) -> None:
    kernel = MemoryKernel()
    async with attached_to(kernel, kind) as attached:
        await attached.apply([lease(7, kind, FAMILIES), lease(8, kind, FAMILIES)])
    async with attached_to(kernel, kind) as attached:
        await attached.apply([lease(8, kind, FAMILIES), lease(9, kind, FAMILIES)])
    subnets = {entry.destination for entry in kernel.present if isinstance(entry, Route)}
    assert subnets == {subnet for n in (8, 9) for subnet in lease(n, kind, FAMILIES).subnets}


@kernel_backends
async def test_routes_of_others_are_left_alone(kind: str) -> None:
    foreign = {Route(ip_network("10.244.99.0/24"), 2, protocol=4), Route(ip_network("192.0.2.0/24"), 2)}
    kernel = MemoryKernel(foreign)
    async with attached_to(kernel, kind) as attached:
        await attached.apply([lease(7, kind, FAMILIES)])
        await attached.apply([])
    assert kernel.present == foreign


@kernel_backends
async def test_a_peer_that_speaks_another_method_is_told_and_left_out(kind: str) -> None:
    kernel = MemoryKernel()
    other = lease(7, "ipip", FAMILIES)
    async with attached_to(kernel, kind) as attached:
        refused = await attached.apply([other])
    assert [(refusal.lease, refusal.foreign) for refusal in refused] == [(other, True)]
    assert kernel.present == set()


@kernel_backends
async def test_a_refused_route_is_its_peers_refusal_and_nobody_elses(kind: str) -> None:
    kernel = MemoryKernel()
    async with attached_to(kernel, kind) as attached:
        await attached.apply([lease(7, kind, FAMILIES)])
        route = next(entry for entry in kernel.present if isinstance(entry, Route))
        await attached.apply([])
        kernel.refusals[route] = 101
        refused = await attached.apply([lease(7, kind, FAMILIES), lease(8, kind, FAMILIES)])
    assert [refusal.lease for refusal in refused] == [lease(7, kind, FAMILIES)]
    assert set(lease(8, kind, FAMILIES).subnets) <= {entry.destination for entry in kernel.present if isinstance(entry, Route)}


@kernel_backends
async def test_a_peer_that_changed_its_address_is_followed(kind: str) -> None:
    kernel = MemoryKernel()
    moved = replace(lease(7, kind), attrs=lease(9, kind).attrs)
    async with attached_to(kernel, kind) as attached:
        await attached.apply([lease(7, kind)])
        await attached.apply([moved])
        after = set(kernel.present)
        await attached.apply([])
        await attached.apply([moved])
    assert kernel.present == after
