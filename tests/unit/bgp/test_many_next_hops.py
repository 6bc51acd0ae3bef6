"""A neighbour that names more next hops than there can be hosts."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from bgp import routes
from bgp.routes import RoutePlanner
from flanneld.kernel import NextHop
from flanneld.lease import IPAddress
from memory_kernel import MemoryKernel


class CountingKernel(MemoryKernel):
    """Every address is on the link."""

    asked = 0

    def next_hop(self, address: IPAddress) -> NextHop:
        self.asked += 1
        return NextHop(2, None)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> CountingKernel:
    monkeypatch.setattr(routes, "MOST_NEXT_HOPS", 100)
    return CountingKernel()


def test_only_so_many_ways_are_remembered(kernel: CountingKernel) -> None:
    plans = RoutePlanner(kernel, lambda address: False)
    assert all(plans.on_link(IPv4Address(number)) for number in range(1, 1001))
    kernel.asked = 0
    plans.refresh()
    assert kernel.asked <= 100


def test_what_was_forgotten_may_have_changed(kernel: CountingKernel) -> None:
    plans = RoutePlanner(kernel, lambda address: False)
    for number in range(1, 201):
        plans.on_link(IPv4Address(number))
    assert plans.refresh()
    assert not plans.refresh()
