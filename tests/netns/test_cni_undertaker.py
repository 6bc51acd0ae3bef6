"""Links that are removed behind the answer, and calls that come meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.ledger import Key, State
from cni.undertaker import Undertaker
from cni.veth import host_name
from cni_node_world import NodeWorld, node_world
from flanneld.kernel import KernelError
from flanneld.linux import links, netns
from flanneld.linux.netlink import Netlink
from scratch_netns import ScratchNetns, scratch_netns

KEY = Key("net", "c1", "eth0")
VETH = host_name(KEY)


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[NodeWorld]:
    """With an undertaker, as in the daemon."""
    with node_world(tmp_path, lasting=True) as made:
        yield made


def test_a_pod_that_comes_while_the_dead_are_counted_lives(lasting: NodeWorld) -> None:
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            lasting.node.reconcile()

    counting = threading.Thread(target=lasting.run, args=(count,))
    counting.start()
    pods = [lasting.pod() for _ in range(20)]
    try:
        for n, pod in enumerate(pods):
            lasting.add(f"c{n}", pod)
    finally:
        done.set()
        counting.join()
    assert len(lasting.veths()) == 20
    assert len(lasting.node.ledger.records()) == 40


def test_del_answers_first_and_the_link_goes_soon(lasting: NodeWorld) -> None:
    pod = lasting.pod()
    lasting.add("c1", pod)
    lasting.delete("c1", pod)
    assert lasting.claims() == set()
    lasting.node.settled(KEY)
    assert (lasting.veths(), lasting.node.ledger.records()) == (set(), [])


def test_an_add_right_after_del_waits_for_the_old_link(lasting: NodeWorld) -> None:
    pod = lasting.pod()
    for _ in range(10):
        lasting.add("c1", pod)
        lasting.delete("c1", pod)
    lasting.add("c1", pod)
    assert (lasting.veths(), lasting.links(pod)) == ({VETH}, {"lo", "eth0"})
    assert {record.state for record in lasting.node.ledger.records()} == {State.MADE}
    lasting.run(lasting.node.reconcile)
    time.sleep(0.1)
    assert lasting.veths() == {VETH}


def test_closing_finishes_what_is_on_its_way_out(lasting: NodeWorld) -> None:
    pods = [lasting.pod() for _ in range(10)]
    for n, pod in enumerate(pods):
        lasting.add(f"c{n}", pod)
        lasting.delete(f"c{n}", pod)
    lasting.restart()
    assert (lasting.veths(), lasting.node.ledger.records()) == (set(), [])


@pytest.fixture
def host() -> Iterator[ScratchNetns]:
    with scratch_netns() as made, netns.netlink_in(made.path) as nl:
        for n in range(40):
            links.add_veth(nl, f"veth{n}", f"peer{n}")
        yield made


def test_the_undertaker_removes_what_came_meanwhile_in_one_go(host: ScratchNetns, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    done: list[str] = []

    def remove(nl: Netlink, names: list[str]) -> None:
        batches.append(len(names))
        links.remove_links(nl, names)

    monkeypatch.setattr("cni.undertaker.remove_links", remove)
    undertaker = netns.run_in(host.path, Undertaker)
    for n in range(40):
        undertaker.take([f"veth{n}"], lambda n=n: done.append(f"veth{n}"))  # type: ignore[misc]
    assert undertaker.settled([f"veth{n}" for n in range(40)])
    assert sorted(done) == sorted(f"veth{n}" for n in range(40))
    assert sum(batches) == 40
    assert len(batches) < 10
    assert [link["ifname"] for link in host.read("ip link show")] == ["lo"]
    undertaker.close()


@pytest.mark.parametrize("error", [KernelError(1, "removal", "not permitted"), ZeroDivisionError("bug")])
def test_an_undertaker_that_failed_once_goes_on(host: ScratchNetns, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failures = [error]
    done: list[str] = []

    def remove(nl: Netlink, names: list[str]) -> None:
        if failures:
            raise failures.pop()
        links.remove_links(nl, names)

    monkeypatch.setattr("cni.undertaker.remove_links", remove)
    undertaker = netns.run_in(host.path, Undertaker)
    for name in ("veth1", "veth2"):
        undertaker.take([name], lambda name=name: done.append(name))  # type: ignore[misc]
        assert undertaker.settled([name])
    undertaker.close()
    assert done == ["veth2"]
