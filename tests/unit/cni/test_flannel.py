"""flannel: the delegate's configuration as flannel-io/cni-plugin renders it, kept from ADD to DEL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import flannel, plugin
from cni.config import Section
from cni.ledger import HeldFile, HeldLink, Key, State
from cni.node import Node
from cni.plugin import Request
from cni.result import Result
from cni.spec import CniError, Code, Command
from cni_requests import bare_node, request

DUAL = """FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.7.1/24
FLANNEL_IPV6_NETWORK=fd00::/48
FLANNEL_IPV6_SUBNET=fd00:0:0:7::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""
SINGLE = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"


class Recorder:
    """A plugin that only remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: CniError | None = None

    def add(self, request: Request, node: Node) -> Result:
        self._note("ADD", request)
        if self.error:
            raise self.error
        return Result()

    def delete(self, request: Request, node: Node) -> None:
        self._note("DEL", request)

    def check(self, request: Request, node: Node) -> None:
        self._note("CHECK", request)

    def gc(self, request: Request, node: Node, valid: object) -> None:
        self._note("GC", request)

    def status(self, request: Request, node: Node) -> None:
        self._note("STATUS", request)

    def _note(self, command: str, request: Request) -> None:
        assert isinstance(request.config, Section)
        self.calls.append((command, dict(request.config.values)))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with bare_node(tmp_path) as node:
        node.subnet_file.write_text(SINGLE)
        yield node


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(flannel, "load_plugin", lambda name: recorder)
    return recorder


def asked(node: Node, command: Command = Command.ADD, **conf: Any) -> Request:
    return request("flannel", {"dataDir": str(kept(node).parent)} | conf, command)


def kept(node: Node) -> Path:
    return node.subnet_file.parent / "flannel" / "c1"


def rendered(node: Node, env: str = SINGLE, **conf: Any) -> dict[str, Any]:
    node.subnet_file.write_text(env)
    about = asked(node, **conf)
    config = flannel.parse(about, node)
    return flannel.delegate_config(about, config, flannel.read_lease(config.subnet_file, Code.TRY_LATER))


def test_an_empty_configuration_becomes_a_bridge_on_the_hosts_subnet(node: Node) -> None:
    assert rendered(node) == {
        "name": "net",
        "cniVersion": "1.0.0",
        "type": "bridge",
        "ipMasq": True,
        "mtu": 1450,
        "isGateway": True,
        "forceAddress": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.244.7.0/24"}]],
            "routes": [{"dst": "10.244.0.0/16", "mtu": 1450}],
        },
    }


def test_dual_stack_has_a_range_and_a_route_of_each_family(node: Node) -> None:
    conf = rendered(node, DUAL)
    assert conf["ipMasq"] is False
    assert conf["ipam"]["ranges"] == [[{"subnet": "10.244.7.0/24"}], [{"subnet": "fd00:0:0:7::/64"}]]
    assert [route["dst"] for route in conf["ipam"]["routes"]] == ["10.244.0.0/16", "fd00::/48"]


def test_what_the_delegate_says_counts_but_for_what_flannel_sets(node: Node) -> None:
    told = {"mtu": 1300, "ipMasq": False, "isGateway": False, "hairpinMode": True, "cniVersion": "0.2.0", "bridge": "br9"}
    conf = rendered(node, delegate=told)
    assert {key: conf[key] for key in told} == told | {"cniVersion": "1.0.0"}


@pytest.mark.parametrize(("own", "route"), [(1300, 1300), (9000, 1450), (0, 1450), ("1300", 1450)])
def test_a_route_promises_no_more_than_the_delegates_own_mtu(node: Node, own: object, route: int) -> None:
    conf = rendered(node, delegate={"mtu": own})
    assert (conf["mtu"], conf["ipam"]["routes"]) == (own, [{"dst": "10.244.0.0/16", "mtu": route}])


def test_another_delegate_is_no_gateway(node: Node) -> None:
    conf = rendered(node, delegate={"type": "ipvlan", "master": "eth0"})
    assert conf.keys() >= {"master", "ipMasq", "mtu"}
    assert not conf.keys() & {"isGateway", "forceAddress"}


def test_ranges_are_the_leases_and_routes_come_on_top_of_those_told(node: Node) -> None:
    told = {"type": "mine", "ranges": [[{"subnet": "192.0.2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/d"}
    ipam = rendered(node, ipam=told)["ipam"]
    assert ipam["ranges"] == [[{"subnet": "10.244.7.0/24"}]]
    assert ipam["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "10.244.0.0/16", "mtu": 1450}]
    assert (ipam["type"], ipam["dataDir"]) == ("mine", "/d")


def test_null_is_absence_for_the_delegate_too(node: Node) -> None:
    conf = rendered(node, delegate={"type": None, "name": None, "mtu": None, "ipam": None}, ipam={"type": None, "routes": None})
    assert conf == rendered(node)


def test_what_the_runtime_gives_is_handed_on(node: Node) -> None:
    more: dict[str, Any] = {"runtimeConfig": {"mac": "0a:00:00:00:00:01"}, "args": {"cni": {"ips": ["10.244.7.9"]}}}
    conf = rendered(node, **more)
    assert {key: conf[key] for key in more} == more


@pytest.mark.parametrize(
    ("conf", "code", "message"),
    [
        ({"delegate": {"name": "x"}}, Code.INVALID_CONFIG, 'delegate.name: got "x", expected nothing: flannel sets it'),
        ({"delegate": {"ipam": {}}}, Code.INVALID_CONFIG, "delegate.ipam: got {}, expected nothing"),
        ({"delegate": {"type": 5}}, Code.INVALID_CONFIG, "delegate.type: got 5, expected text"),
        ({"delegate": []}, Code.INVALID_CONFIG, "delegate: got [], expected an object"),
        ({"subnetfile": 5}, Code.INVALID_CONFIG, "subnetFile: got 5, expected text"),
        ({"mtu": 1400}, Code.UNSUPPORTED_FIELD, "unsupported field mtu"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(node: Node, conf: dict[str, Any], code: Code, message: str) -> None:
    with pytest.raises(CniError) as error:
        flannel.add(asked(node, **conf), node)
    assert (error.value.code, message in error.value.message) == (code, True)


@pytest.mark.parametrize(
    ("text", "details"), [(None, "no such file or directory"), ("FLANNEL_MTU=1450\n", "missing FLANNEL_NETWORK")]
)
def test_without_a_lease_add_is_to_be_tried_later_and_the_node_is_not_ready(node: Node, text: str | None, details: str) -> None:
    node.subnet_file.unlink()
    if text is not None:
        node.subnet_file.write_text(text)
    with pytest.raises(CniError, match=rf"failed to load flannel 'subnet\.env' file: .*{details}") as later:
        flannel.add(asked(node), node)
    with pytest.raises(CniError) as unready:
        flannel.status(asked(node, Command.STATUS), node)
    assert (later.value.code, unready.value.code) == (Code.TRY_LATER, Code.NOT_AVAILABLE)
    assert not kept(node).exists()


def test_the_delegate_is_undone_by_what_it_was_told_whatever_the_lease_says_now(node: Node, bridge: Recorder) -> None:
    flannel.add(asked(node), node)
    assert (json.loads(kept(node).read_text()), kept(node).stat().st_mode & 0o777) == (bridge.calls[0][1], 0o600)
    node.subnet_file.unlink()
    flannel.delete(asked(node, Command.DEL), node)
    assert [command for command, _ in bridge.calls] == ["ADD", "DEL"]
    assert bridge.calls[1][1] == bridge.calls[0][1]
    assert (kept(node).exists(), node.ledger.records()) == (False, [])


def test_an_add_is_undone_by_delete_even_if_the_call_says_add(node: Node, bridge: Recorder) -> None:
    flannel.add(asked(node), node)
    flannel.delete(asked(node), node)
    assert [command for command, _ in bridge.calls] == ["ADD", "DEL"]


def test_an_add_whose_delegate_fails_keeps_nothing(node: Node, bridge: Recorder) -> None:
    bridge.error = CniError(Code.FAILED, "no")
    with pytest.raises(CniError, match=r"^no$"):
        flannel.add(asked(node), node)
    assert (kept(node).exists(), node.ledger.records()) == (False, [])


def test_del_without_a_kept_configuration_lets_go_of_what_the_ledger_has(node: Node, bridge: Recorder) -> None:
    node.hold(request("host-local", {}), HeldFile(str(node.subnet_file.parent / "claim")))
    flannel.delete(asked(node, Command.DEL), node)
    flannel.delete(asked(node, Command.DEL), node)
    assert (node.ledger.records(), bridge.calls) == ([], [])


def test_a_torn_kept_configuration_is_taken_for_a_bridges(node: Node, bridge: Recorder) -> None:
    kept(node).parent.mkdir()
    kept(node).write_text('{"type": "bri')
    flannel.delete(asked(node, Command.DEL), node)
    assert bridge.calls == [("DEL", {"type": "bridge", "name": "net", "ipam": {"type": "host-local"}})]
    assert not kept(node).exists()


def test_gc_undoes_what_no_valid_attachment_has(node: Node, bridge: Recorder) -> None:
    flannel.add(asked(node), node)
    flannel.gc(asked(node, Command.GC), node, {Key("net", "c1", "eth0")})
    assert [command for command, _ in bridge.calls] == ["ADD", "GC"]
    flannel.gc(asked(node, Command.GC), node, set())
    assert [command for command, _ in bridge.calls] == ["ADD", "GC", "DEL", "GC"]
    assert (kept(node).exists(), node.ledger.records()) == (False, [])


def test_every_plugin_of_the_table_can_be_loaded_or_is_unknown() -> None:
    assert plugin.load_plugin("flannel") is flannel
    with pytest.raises(CniError, match="there is no plugin 'nothing' here: expected one of bandwidth, bridge"):
        plugin.load_plugin("nothing")


@pytest.mark.parametrize("delegate", [{}, {"mtu": None}, {"mtu": 1450}])
def test_the_record_says_whose_mtu_it_is(node: Node, bridge: Recorder, delegate: dict[str, Any]) -> None:
    flannel.add(asked(node, delegate=delegate), node)
    (record,) = node.ledger.records()
    assert record.mtu_from == ("" if delegate.get("mtu") else str(node.subnet_file))


def test_the_record_of_an_add_is_made_at_once(node: Node, bridge: Recorder) -> None:
    flannel.add(asked(node), node)
    (record,) = node.ledger.records()
    assert (record.state, record.of(HeldFile), record.of(HeldLink)) == (State.MADE, (HeldFile(str(kept(node))),), ())
