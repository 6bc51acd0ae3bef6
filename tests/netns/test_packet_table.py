"""The packet table on a real kernel: elements, what strangers do to it, and what it does to packets."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from cni.ledger import HeldElement
from cni.packet_elements import bridge_apart, guard_mac, hairpin, isolate_port, masquerade, pass_forwarding, port_mapping
from cni.packet_table import PacketTable
from cni.spec import CniError
from cni_traffic import HOST, OUTSIDE, outside, service
from cni_world import CniHost, PluginSet, Sandbox, cni_host

POD = ip_interface("10.1.1.2/24")
WEB = port_mapping("tcp", None, 8080, POD.ip, 80)
ALL = (
    WEB,
    port_mapping("udp", ip_address("192.0.2.1"), 53, POD.ip, 53),
    port_mapping("tcp", None, 8080, ip_address("fd00::2"), 80),
    *hairpin(POD),
    *masquerade(ip_interface("fd00::2/64")),
    *guard_mac("veth0", "02:00:00:00:00:01"),
    *bridge_apart("cni0", within=True),
    pass_forwarding(POD.ip),
)
NOTICE_S = 5.0


@dataclass
class Tabled:
    """A host, its table, and what is held there."""

    host: CniHost
    held: list[HeldElement] = field(default_factory=list)
    table: PacketTable = field(init=False)

    def __post_init__(self) -> None:
        self.table = PacketTable(lambda: self.held)

    def put(self, *elements: HeldElement) -> None:
        self.held += elements
        self.host.place.call(self.table.put, elements)

    def take(self, *elements: HeldElement) -> None:
        self.host.place.call(self.table.take, elements)
        for element in elements:
            if element in self.held:
                self.held.remove(element)

    def missing(self, *elements: HeldElement) -> list[HeldElement]:
        return self.host.place.call(self.table.missing, elements)

    def reconcile(self) -> bool:
        return self.host.place.call(self.table.reconcile)

    def nft(self, line: str) -> str:
        """As a stranger would."""
        return self.host.place.run(["nft", line]).stdout

    def whole(self) -> bool:
        """Everything held is there, and nothing is amiss."""
        return not self.missing(*self.held) and not self.reconcile()


@pytest.fixture
def tabled() -> Iterator[Tabled]:
    with cni_host(PluginSet("no", Path("/nonexistent"))) as host:
        made = Tabled(host)
        try:
            yield made
        finally:
            made.table.close()


def test_nothing_is_opened_or_made_before_it_is_needed(tabled: Tabled) -> None:
    tabled.take()
    tabled.put()
    assert tabled.missing() == []
    assert tabled.table._socket is None
    tabled.take(*ALL)
    assert not tabled.reconcile()
    assert tabled.nft("list tables") == ""


def test_elements_are_there_as_nft_names_them_until_they_are_taken(tabled: Tabled) -> None:
    tabled.put(*ALL)
    assert "tcp . 8080 : 10.1.1.2 . 80" in tabled.nft("list map inet tartan-cni ports4")
    assert "10.1.1.0/24 . 10.1.1.0/24" in tabled.nft("list set inet tartan-cni near4")
    assert '"veth0" . 02:00:00:00:00:01' in tabled.nft("list set bridge tartan-cni port_macs")
    assert tabled.whole()
    tabled.take(*ALL)
    assert not tabled.reconcile()
    assert tabled.nft("list tables") == ""


def test_only_tables_that_are_needed_are_made(tabled: Tabled) -> None:
    tabled.put(WEB)
    assert tabled.nft("list tables").splitlines() == ["table inet tartan-cni"]


def test_what_is_there_may_be_put_and_what_is_not_taken(tabled: Tabled) -> None:
    tabled.put(WEB)
    tabled.put(*ALL)
    assert tabled.missing(*ALL) == []
    tabled.take(*ALL[:2])
    tabled.take(*ALL[:4])
    assert tabled.missing(*ALL) == list(ALL[:4])


def test_a_table_that_vanished_comes_back_with_the_next_put_and_all_that_was_in_it(tabled: Tabled) -> None:
    tabled.put(*ALL)
    tabled.nft("flush ruleset")
    tabled.put(port_mapping("tcp", None, 8081, POD.ip, 80))
    assert tabled.missing(*(each for each in ALL if each.set[-1] in "46" and not each.set.startswith("passed"))) == []
    tabled.reconcile()
    assert tabled.whole()


@pytest.mark.parametrize(
    "harm",
    [
        "flush ruleset",
        "delete table inet tartan-cni",
        "flush chain inet tartan-cni mapped",
        "flush set inet tartan-cni near4",
        "delete element inet tartan-cni ports4 { tcp . 8080 }",
        "add element inet tartan-cni ports4 { tcp . 22 : 10.1.1.66 . 22 }",
        "insert rule inet tartan-cni prerouting accept",
        "add table inet tartan-cni { flags dormant; }",
        "flush table bridge tartan-cni",
    ],
)
def test_whatever_a_stranger_does_is_undone(tabled: Tabled, harm: str) -> None:
    tabled.put(*ALL)
    before = tabled.nft("list ruleset")
    tabled.nft(harm)
    assert tabled.reconcile()
    assert tabled.whole()
    assert sorted(tabled.nft("list ruleset").split()) == sorted(before.split())


def test_a_new_process_takes_over_what_is_there_in_one_step(tabled: Tabled) -> None:
    tabled.put(*ALL)
    successor = Tabled(tabled.host, tabled.held)
    assert not successor.reconcile()
    assert successor.whole()
    successor.table.close()


def test_a_stale_element_gives_way(tabled: Tabled) -> None:
    tabled.put(WEB)
    tabled.held.clear()
    tabled.put(port_mapping("tcp", None, 8080, ip_address("10.1.1.3"), 80))
    assert "tcp . 8080 : 10.1.1.3 . 80" in tabled.nft("list map inet tartan-cni ports4")


def test_an_element_that_somebody_holds_does_not(tabled: Tabled) -> None:
    tabled.put(*ALL)
    with pytest.raises(CniError, match=r"tcp \. 8080"):
        tabled.put(port_mapping("tcp", None, 8080, ip_address("10.1.1.3"), 80))
    assert tabled.missing(*ALL) == []


def test_subnets_that_overlap_keep_no_pod_from_being_put(tabled: Tabled) -> None:
    one, two = masquerade(POD), masquerade(ip_interface("10.1.7.7/16"))
    tabled.put(*one)
    tabled.put(*two)
    assert tabled.missing(one[0], two[0]) == []


def test_what_pods_share_goes_with_the_last_of_them(tabled: Tabled) -> None:
    tabled.put(*bridge_apart("cni0", within=True))
    tabled.put(*bridge_apart("cni0", within=True))
    tabled.take(*bridge_apart("cni0", within=True))
    assert tabled.missing(*bridge_apart("cni0", within=True)) == []
    tabled.take(*bridge_apart("cni0", within=True))
    assert len(tabled.missing(*bridge_apart("cni0", within=True))) == 2


def test_what_was_taken_does_not_come_back_while_its_holder_has_not_let_go(tabled: Tabled) -> None:
    tabled.put(*ALL)
    tabled.host.place.call(tabled.table.take, [WEB])
    tabled.reconcile()
    assert tabled.missing(WEB) == [WEB]
    tabled.host.place.call(tabled.table.put, [WEB])
    assert tabled.missing(WEB) == []


def test_strangers_are_noticed_and_our_own_changes_are_not(tabled: Tabled) -> None:
    tabled.put(*ALL)
    tabled.host.place.call(asyncio.run, notice_strangers(tabled))


async def notice_strangers(tabled: Tabled) -> None:
    heard: asyncio.Queue[None] = asyncio.Queue()

    async def listen() -> None:
        async for _ in tabled.table.changes():
            heard.put_nowait(None)

    async with asyncio.TaskGroup() as tasks:
        listener = tasks.create_task(listen())
        await asyncio.wait_for(heard.get(), NOTICE_S)
        tabled.take(WEB)
        tabled.put(WEB)
        await asyncio.sleep(0.3)
        assert heard.empty()
        for harm in ("flush set inet tartan-cni near4", "delete table bridge tartan-cni", "flush ruleset"):
            tabled.nft(harm)
            await asyncio.wait_for(heard.get(), NOTICE_S)
        tabled.nft("add table inet another")
        await asyncio.sleep(0.3)
        assert heard.empty()
        listener.cancel()


def bridged(host: CniHost, number: int) -> Sandbox:
    """A pod 10.1.1.`number` on a bridge cni0, by the port veth`number`."""
    pod = host.sandbox(f"pod{number}")
    if "cni0" not in host.links():
        host.ip("link add cni0 type bridge\naddress add 10.1.1.1/24 dev cni0\nlink set cni0 up")
    host.ip(f"link add veth{number} type veth peer name eth0 netns pod{number}\nlink set veth{number} master cni0 up")
    pod.ip(f"address add 10.1.1.{number}/24 dev eth0\nlink set eth0 up\nlink set lo up\nroute add default via 10.1.1.1")
    return pod


def forwarding(host: CniHost) -> None:
    host.place.call(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")


def test_a_masqueraded_pod_shows_the_hosts_address_outside_and_its_own_at_home(tabled: Tabled) -> None:
    beyond, one, two = outside(tabled.host), bridged(tabled.host, 2), bridged(tabled.host, 3)
    forwarding(tabled.host)
    tabled.put(*masquerade(POD))
    with service(beyond, 80) as far, service(two, 80) as near, service(tabled.host, 80) as own:
        assert far.reaches(one, OUTSIDE[0], 80) == HOST[0]
        assert near.reaches(one, "10.1.1.3", 80) == "10.1.1.2"
        assert own.reaches(one, "10.1.1.1", 80) == "10.1.1.2"
        tabled.take(*masquerade(POD))
        assert far.reaches(one, OUTSIDE[0], 80) == "10.1.1.2"


def test_a_guarded_port_sends_from_one_mac_alone(tabled: Tabled) -> None:
    one = bridged(tabled.host, 2)
    own = one.links()["eth0"]["address"]
    tabled.put(*guard_mac("veth2", own))
    with service(tabled.host, 80) as server:
        assert server.reaches(one, "10.1.1.1", 80) == "10.1.1.2"
        one.ip("link set eth0 address 02:00:00:00:00:99")
        assert server.unreachable(one, "10.1.1.1", 80)
        tabled.take(*guard_mac("veth2", own))
        assert server.reaches(one, "10.1.1.1", 80) == "10.1.1.2"


def test_isolated_ports_reach_the_host_and_not_each_other(tabled: Tabled) -> None:
    one, two = bridged(tabled.host, 2), bridged(tabled.host, 3)
    tabled.put(isolate_port("veth2"), isolate_port("veth3"))
    with service(two, 80) as near, service(tabled.host, 80) as own:
        assert near.unreachable(one, "10.1.1.3", 80)
        assert own.reaches(one, "10.1.1.1", 80) == "10.1.1.2"


def test_how_long_the_elements_of_250_pods_take(tabled: Tabled) -> None:
    pods = [ip_interface(f"10.1.1.{number}/24") for number in range(2, 252)]
    asked = [(*masquerade(pod), *hairpin(pod), port_mapping("tcp", None, 20000 + n, pod.ip, 80)) for n, pod in enumerate(pods)]

    def timed(change: Callable[[Iterable[HeldElement]], None]) -> list[float]:
        took = []
        for elements in asked:
            start = time.perf_counter()
            change(elements)
            took.append((time.perf_counter() - start) * 1000)
        return took

    for name, change in (("put", tabled.table.put), ("take", tabled.table.take)):
        took = tabled.host.place.call(timed, change)
        last = statistics.median(took[-20:])
        print(f"{name}: median {statistics.median(took):.3f} ms, worst {max(took):.3f} ms, of the last 20 {last:.3f} ms")
    assert tabled.missing(*(elements[0] for elements in asked)) == [elements[0] for elements in asked]
