"""What every backend that programs the kernel promises, on a kernel in memory and on Linux's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.backend import BgpBackend
from contract.announcing import attached_announcing
from contract.kernel_world import OTHERS_PROTOCOL, UPLINK, WatchedKernel, watched_kernel
from flanneld.backend import Network, load_backend
from flanneld.kernel import Route
from flanneld.lease import FAMILIES, IPNetwork
from peers_of import apply, lease, network, uplink

kernel_backends = pytest.mark.parametrize("kind", ["vxlan", "host-gw", "bgp"])


@pytest.fixture(scope="module", params=["memory", pytest.param("linux", marks=pytest.mark.root)])
def shared_kernel(request: pytest.FixtureRequest) -> Iterator[WatchedKernel]:
    with watched_kernel(request.param) as kernel:
        yield kernel


@pytest.fixture
def kernel(shared_kernel: WatchedKernel) -> WatchedKernel:
    shared_kernel.clear()
    return shared_kernel


@asynccontextmanager
async def attached_to(kernel: WatchedKernel, kind: str) -> AsyncIterator[Network]:
    config = network(f'{{"Type": "{kind}"}}', FAMILIES)
    backend, ours = load_backend(config), uplink(FAMILIES, index=UPLINK)
    attach = partial(attached_announcing, backend.config) if isinstance(backend, BgpBackend) else backend.attach
    async with attach(ours, config, kernel) as attached:
        await attached.adopt(lease(1, kind, FAMILIES))
        yield attached


def routed(kernel: WatchedKernel) -> set[IPNetwork]:
    return {entry.destination for entry in kernel.everything() if isinstance(entry, Route)}


def subnets(*peers: int) -> set[IPNetwork]:
    return {subnet for n in peers for subnet in lease(n, families=FAMILIES).subnets}


@kernel_backends
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.integers(2, 40), max_size=12), min_size=1, max_size=5))
async def test_only_the_last_peers_count(shared_kernel: WatchedKernel, kind: str, rounds: list[set[int]]) -> None:
    shared_kernel.clear()
    async with attached_to(shared_kernel, kind) as attached:
        for peers in rounds:
            assert not await apply(attached, shared_kernel, [lease(n, kind, FAMILIES) for n in peers])
        after_all = shared_kernel.everything()
        shared_kernel.remove(after_all)
        await apply(attached, shared_kernel, [lease(n, kind, FAMILIES) for n in rounds[-1]])
    assert shared_kernel.everything() == after_all
    assert routed(shared_kernel) == subnets(*rounds[-1])


@kernel_backends
async def test_the_same_peers_again_touch_nothing(kernel: WatchedKernel, kind: str) -> None:
    async with attached_to(kernel, kind) as attached:
        await apply(attached, kernel, [lease(7, kind, FAMILIES)])
        kernel.written.clear()
        await apply(attached, kernel, [lease(7, kind, FAMILIES)])
    assert kernel.written == []


@kernel_backends
async def test_what_was_lost_comes_back(kernel: WatchedKernel, kind: str) -> None:
    async with attached_to(kernel, kind) as attached:
        await apply(attached, kernel, [lease(7, kind, FAMILIES), lease(8, kind, FAMILIES)])
        before = kernel.everything()
        for entry in before:
            kernel.remove([entry])
            await apply(attached, kernel, [lease(7, kind, FAMILIES), lease(8, kind, FAMILIES)])
            assert kernel.everything() == before


@kernel_backends
async def test_all_that_is_programmed_is_the_owners(kernel: WatchedKernel, kind: str) -> None:
    async with attached_to(kernel, kind) as attached:
        await apply(attached, kernel, [lease(7, kind, FAMILIES), lease(8, kind, FAMILIES)])
        assert kernel.entries(attached.owner) >= kernel.everything() != frozenset()


@kernel_backends
async def test_what_an_earlier_run_left_is_taken_over(kernel: WatchedKernel, kind: str) -> None:
    async with attached_to(kernel, kind) as attached:
        await apply(attached, kernel, [lease(7, kind, FAMILIES), lease(8, kind, FAMILIES)])
    assert routed(kernel) == subnets(7, 8), "the data plane outlives the daemon"
    async with attached_to(kernel, kind) as attached:
        assert routed(kernel) == subnets(7, 8), "and its start"
        await apply(attached, kernel, [lease(8, kind, FAMILIES), lease(9, kind, FAMILIES)])
    assert routed(kernel) == subnets(8, 9)


@kernel_backends
async def test_what_another_backend_left_is_taken_out(kernel: WatchedKernel, kind: str) -> None:
    other = "host-gw" if kind == "vxlan" else "vxlan"
    async with attached_to(kernel, other) as attached:
        await apply(attached, kernel, [lease(7, other, FAMILIES), lease(8, other, FAMILIES)])
    async with attached_to(kernel, kind) as attached:
        assert await apply(attached, kernel, [lease(8, kind, FAMILIES)]) == ()
        assert routed(kernel) == subnets(8)
    async with attached_to(kernel, "alloc") as attached:
        assert await apply(attached, kernel, [lease(8, "", FAMILIES)]) == ()
        assert routed(kernel) == set()


@kernel_backends
async def test_routes_of_others_are_left_alone(kernel: WatchedKernel, kind: str) -> None:
    gateway = ip_address("10.0.0.99")
    others = {Route(ip_network("10.244.99.0/24"), UPLINK, gateway, protocol=OTHERS_PROTOCOL)}
    others |= {Route(ip_network("192.0.2.0/24"), UPLINK, gateway)}
    assert not kernel.add(others)
    async with attached_to(kernel, kind) as attached:
        await apply(attached, kernel, [lease(7, kind, FAMILIES)])
        await apply(attached, kernel, [])
    assert kernel.everything() == others


@kernel_backends
async def test_a_method_speaks_to_those_whose_lease_names_it(kernel: WatchedKernel, kind: str) -> None:
    async with attached_to(kernel, kind) as attached:
        assert [attached.speaks(lease(7, spoken, FAMILIES)) for spoken in (kind, "ipip", "")] == [True, False, False]


@kernel_backends
async def test_every_refused_entry_is_its_peers_refusal_and_nobody_elses(kernel: WatchedKernel, kind: str) -> None:
    bad, good = lease(7, kind, FAMILIES), lease(8, kind, FAMILIES)
    async with attached_to(kernel, kind) as attached:
        await apply(attached, kernel, [bad])
        for entry in kernel.everything():
            await apply(attached, kernel, [])
            kernel.refused = {entry}
            (refused,) = await apply(attached, kernel, [bad, good])
            assert (refused.lease, refused.foreign) == (bad, False)
            assert str(entry) in refused.why
            assert subnets(8) <= routed(kernel)


@kernel_backends
async def test_a_peer_is_refused_once_however_many_of_its_entries_are(kernel: WatchedKernel, kind: str) -> None:
    bad, good = lease(7, kind, FAMILIES), lease(8, kind, FAMILIES)
    async with attached_to(kernel, kind) as attached:
        await apply(attached, kernel, [bad])
        kernel.refused = set(kernel.everything())
        await apply(attached, kernel, [])
        (refused,) = await apply(attached, kernel, [bad, good])
        assert refused.lease == bad


@kernel_backends
async def test_a_peer_that_changed_its_address_is_followed(kernel: WatchedKernel, kind: str) -> None:
    moved = replace(lease(7, kind), attrs=lease(9, kind).attrs)
    async with attached_to(kernel, kind) as attached:
        await apply(attached, kernel, [lease(7, kind)])
        await apply(attached, kernel, [moved])
        after = kernel.everything()
        await apply(attached, kernel, [])
        await apply(attached, kernel, [moved])
        assert kernel.everything() == after


@pytest.mark.root
async def test_what_linux_itself_refuses_is_its_peers_refusal() -> None:
    broadcast = replace(lease(7, "host-gw"), attrs=replace(lease(7, "host-gw").attrs, public_ips=(ip_address("10.0.0.255"),)))
    with watched_kernel("linux") as kernel:
        async with attached_to(kernel, "host-gw") as attached:
            (refused,) = await apply(attached, kernel, [broadcast, lease(8, "host-gw")])
        assert refused.lease == broadcast
        assert "route 10.244.7.0/24 via 10.0.0.255" in refused.why
        assert "invalid gateway" in refused.why
        assert routed(kernel) == {lease(8).subnets[0]}
