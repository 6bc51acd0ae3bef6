"""Networks of the container engine on a host of their own: real namespaces, bridges and packets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.ledger import read_ledger
from flanneld.linux import netns
from runtime.config import EndpointSettings, IpamConfig, PortBinding
from runtime.errors import Conflict, EngineError, Forbidden, InvalidParameter
from runtime.layout import Layout
from runtime.networks.network import IpamRequest, PoolRequest
from runtime.settings import Settings
from runtime_nets import HOST_ADDRESS, NEIGHBOUR_ADDRESS, NetworksWorld, engine_host, networks_on, networks_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NetworksWorld]:
    with networks_world(tmp_path, cni_bin_dir=tmp_path / "bin") as made:
        yield made


def with_subnet(subnet: str, ip_range: str = "") -> IpamRequest:
    return IpamRequest(config=(PoolRequest(subnet=subnet, ip_range=ip_range),))


def at(address: str) -> EndpointSettings:
    return EndpointSettings(ipam_config=IpamConfig(ipv4_address=address))


def test_containers_on_the_default_bridge_reach_each_other(world: NetworksWorld) -> None:
    one, _ = world.start("one"), world.start("two")
    given = one.endpoints["bridge"]
    assert (given.ip_address, given.ip_prefix_len, given.gateway) == ("172.17.0.2", 16, "172.17.0.1")
    assert given.mac_address in world.host.sh("ip link show eth0", one.netns)
    with world.serve("two", 80):
        assert world.ask("one", world.address("two"), 80) == "two"
    assert f"{given.ip_address}\t{world.records['one'].id[:12]}\n" in one.etc_hosts


def test_a_container_reaches_others_with_the_hosts_address_and_they_do_not_reach_it(world: NetworksWorld) -> None:
    world.start("one")
    world.machine.neighbour.ip(f"route add 172.17.0.0/16 via {HOST_ADDRESS}")
    with world.serve("one", 80), netns.run_in(world.machine.neighbour.path, listening) as neighbour:
        client = world.host.inside(world.path("one"), connected, NEIGHBOUR_ADDRESS)
        with client, neighbour.accept()[0] as served:
            assert served.getpeername()[0] == HOST_ADDRESS
        assert not world.reaches("neighbour", world.address("one"), 80)
        assert world.ask("", world.address("one"), 80) == "one"


def listening() -> socket.socket:
    return socket.create_server(("0.0.0.0", 80))  # noqa: S104  # in a namespace of the test's


def connected(address: str) -> socket.socket:
    return socket.create_connection((address, 80), timeout=2)


def test_a_published_port_is_reached_from_everywhere(world: NetworksWorld) -> None:
    web = world.start("web", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    world.start("other")
    assert web.ports == {"80/tcp": (PortBinding(host_ip="0.0.0.0", host_port="8080"),)}  # noqa: S104
    with world.serve("web", 80):
        for source, address in (
            ("", "127.0.0.1"),
            ("", HOST_ADDRESS),
            ("neighbour", HOST_ADDRESS),
            ("other", "172.17.0.1"),
            ("web", "172.17.0.1"),
            ("web", HOST_ADDRESS),
        ):
            assert world.ask(source, address, 8080) == "web", (source, address)


def test_a_port_of_one_address_is_reached_at_that_address_alone(world: NetworksWorld) -> None:
    world.start("web", port_bindings={"80/tcp": (PortBinding(host_ip="127.0.0.1", host_port="8080"),)})
    with world.serve("web", 80):
        assert world.ask("", "127.0.0.1", 8080) == "web"
        assert not world.reaches("neighbour", HOST_ADDRESS, 8080)


def test_a_port_that_a_container_or_a_process_has_is_refused_and_nothing_is_left(world: NetworksWorld) -> None:
    world.start("web", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    with pytest.raises(EngineError, match=r"on endpoint two .*Bind for 0\.0\.0\.0:8080 failed: port is already allocated"):
        world.start("two", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    with (
        world.serve("", 9090),
        pytest.raises(EngineError, match=r"failed to bind host port 0\.0\.0\.0:9090/tcp: address already in use"),
    ):
        world.start("two", port_bindings={"80/tcp": (PortBinding(host_port="9090"),)})
    assert len([link for link in world.machine.links() if link.startswith("veth")]) == 1
    world.stop("web")
    world.start("two", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})


def test_a_process_cannot_take_a_published_port(world: NetworksWorld) -> None:
    world.start("web", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    with pytest.raises(OSError, match="in use"):
        world.serve("", 8080)


def test_datagrams_come_to_a_published_port_and_go_back(world: NetworksWorld) -> None:
    world.start("web", port_bindings={"53/udp": (PortBinding(host_port="5353"),)})
    server = world.host.inside(world.path("web"), socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with server, netns.run_in(world.machine.neighbour.path, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.bind(("0.0.0.0", 53))  # noqa: S104
        server.settimeout(2)
        client.settimeout(2)
        client.sendto(b"ping", (HOST_ADDRESS, 5353))
        said, whom = server.recvfrom(100)
        server.sendto(said, whom)
        assert client.recvfrom(100) == (b"ping", (HOST_ADDRESS, 5353))


def test_containers_of_different_networks_do_not_reach_each_other(world: NetworksWorld) -> None:
    for name in ("red", "blue"):
        world.create(name)
    world.start("one", "red")
    world.start("two", "blue")
    world.start("three", "red", "blue")
    with world.serve("two", 80):
        assert not world.reaches("one", world.address("two", "blue"), 80)
        assert world.ask("three", world.address("two", "blue"), 80) == "two"


def test_a_network_without_icc_carries_nothing_between_its_containers(world: NetworksWorld) -> None:
    world.create("quiet", options={"com.docker.network.bridge.enable_icc": "false"})
    world.start("one", "quiet")
    world.start("two", "quiet")
    with world.serve("two", 80):
        assert not world.reaches("one", world.address("two", "quiet"), 80)
        assert world.ask("", world.address("two", "quiet"), 80) == "two"


def test_an_internal_network_leads_nowhere_else(world: NetworksWorld) -> None:
    world.create("inside", internal=True)
    one = world.start("one", "inside")
    world.start("two", "inside")
    assert one.endpoints["inside"].gateway == ""
    assert "default" not in world.host.sh("ip route", one.netns)
    gateway = world.networks.find("inside").pools[0].gateway
    world.host.sh(f"ip route add default via {gateway}", one.netns)
    with world.serve("two", 80), netns.run_in(world.machine.neighbour.path, listening):
        assert world.ask("one", world.address("two", "inside"), 80) == "two"
        assert not world.reaches("one", NEIGHBOUR_ADDRESS, 80)


def test_an_address_that_is_asked_for_is_given_once(world: NetworksWorld) -> None:
    world.create("mine", ipam=with_subnet("10.7.0.0/24", ip_range="10.7.0.128/25"))
    world.start("one", "mine", asked={"mine": at("10.7.0.9")})
    assert world.address("one", "mine") == "10.7.0.9"
    with pytest.raises(Forbidden, match="Address already in use"):
        world.start("two", "mine", asked={"mine": at("10.7.0.9")})
    with pytest.raises(Forbidden, match="Address already in use"):
        world.start("two", "mine", asked={"mine": at("10.7.0.1")})
    with pytest.raises(InvalidParameter, match=r"no configured subnet contains IP address 10\.8\.0\.9"):
        world.start("two", "mine", asked={"mine": at("10.8.0.9")})
    world.start("two", "mine")
    assert world.address("two", "mine").startswith("10.7.0.1")


def test_a_mac_that_is_asked_for_is_given(world: NetworksWorld) -> None:
    one = world.start("one", asked={"bridge": EndpointSettings(mac_address="02:42:ac:11:00:99")})
    assert one.endpoints["bridge"].mac_address == "02:42:ac:11:00:99"
    assert "02:42:ac:11:00:99" in world.host.sh("ip link show eth0", one.netns)


def test_a_running_container_is_connected_and_disconnected(world: NetworksWorld) -> None:
    world.create("more")
    world.start("one", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    world.start("two", "more")
    joined = world.connect("one", "more", EndpointSettings(gw_priority=1))
    assert "dev eth1" in world.host.sh("ip route show default", joined.netns)
    with world.serve("two", 80, "two"), world.serve("one", 80, "one"):
        assert world.ask("one", world.address("two", "more"), 80) == "two"
        assert world.ask("neighbour", HOST_ADDRESS, 8080) == "one"
        world.disconnect("one", "more")
        assert "dev eth0" in world.host.sh("ip route show default", joined.netns)
        assert world.ask("neighbour", HOST_ADDRESS, 8080) == "one"
        assert not world.reaches("one", world.address("two", "more"), 80)
    with pytest.raises(Forbidden, match="not connected"):
        world.disconnect("one", "more")


def test_modes_none_host_and_container_have_what_they_say(world: NetworksWorld) -> None:
    none, host = world.start("none", "none"), world.start("host", "host")
    assert host.netns == "host"
    links = json.loads(world.host.sh("ip -j link", none.netns))
    assert [(link["ifname"], "UP" in link["flags"]) for link in links] == [("lo", True)]
    identity = world.records["none"].id
    shared = world.start("shared", f"container:{identity}")
    assert (shared.netns, shared.shares_files_of) == (none.netns, identity)
    with pytest.raises(Forbidden, match=r"private \(none\) mode"):
        world.connect("none", "bridge")
    world.stop("none")
    with pytest.raises(Conflict, match="cannot join network of a non running container"):
        world.start("late", f"container:{identity}")


def test_a_network_that_is_in_use_stays_and_then_its_bridge_goes(world: NetworksWorld) -> None:
    identity = world.create("mine")
    world.start("one", "mine")
    network = world.networks.find(identity[:10])
    assert network.bridge in world.machine.links()
    with pytest.raises(Forbidden, match=r'network mine has active endpoints \(name:"one" id:"6f6e65'):
        world.host.run(world.networks.remove(network))
    world.stop("one")
    world.host.run(world.networks.remove(network))
    assert network.bridge not in world.machine.links()
    with pytest.raises(Forbidden, match="bridge is a pre-defined network and cannot be removed"):
        world.host.run(world.networks.remove(world.networks.find("bridge")))


def test_subnets_are_chosen_where_the_host_has_none(world: NetworksWorld) -> None:
    world.machine.netns.ip("addr add 172.18.5.1/24 dev lan")
    world.create("one")
    world.create("two")
    subnets = [world.networks.find(name).pools[0].subnet for name in ("one", "two")]
    assert subnets == ["172.19.0.0/16", "172.20.0.0/16"]
    with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
        world.create("three", ipam=with_subnet("172.19.4.0/24"))
    with pytest.raises(Conflict, match="network with name two already exists"):
        world.create("two")


def test_a_network_with_ipv6_gives_addresses_of_both_families(world: NetworksWorld) -> None:
    world.create("both", enable_ipv6=True)
    one = world.start("one", "both", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    world.start("two", "both")
    assert one.endpoints["both"].global_ipv6_address.startswith("fd")
    assert "default" in world.host.sh("ip -6 route show default", one.netns)
    assert [place.host_ip for place in one.ports["80/tcp"]] == ["0.0.0.0", "::"]  # noqa: S104
    with world.host.inside(one.netns, socket.create_server, ("::", 80), family=socket.AF_INET6) as server:
        world.host.inside(world.path("two"), socket.create_connection, (one.endpoints["both"].global_ipv6_address, 80)).close()
        server.accept()[0].close()


def test_the_next_engine_goes_on_where_the_last_one_stopped(world: NetworksWorld) -> None:
    world.create("mine")
    world.start("web", "mine", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    world.start("dead", "mine")
    world.restart(running=("web",))
    assert set(world.networks.members(world.networks.find("mine"))) == {world.records["web"].id}
    with world.serve("web", 80):
        assert world.ask("neighbour", HOST_ADDRESS, 8080) == "web"
    with pytest.raises(EngineError, match="already allocated"):
        world.start("two", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    world.stop("web")
    world.start("two", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})


def test_bridges_are_made_again_after_a_reboot(world: NetworksWorld) -> None:
    world.create("mine")
    bridge = world.networks.find("mine").bridge
    world.machine.netns.ip(f"link del {bridge}")
    world.host.sh("nft delete table inet tartan-engine")
    world.restart(running=())
    assert bridge in world.machine.links()
    assert bridge in world.host.sh("nft list table inet tartan-engine")


def test_an_administrators_cni_network_is_a_network(world: NetworksWorld, tmp_path: Path) -> None:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [{"type": "ptp", "ipMasq": True, "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d/10-lan.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "lan0", "plugins": plugins}))
    one = world.start("one", "lan0", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    assert (one.endpoints["lan0"].ip_address, one.endpoints["lan0"].gateway) == ("10.9.0.2", "10.9.0.1")
    with world.serve("one", 80):
        assert world.ask("neighbour", HOST_ADDRESS, 8080) == "one"
    (tmp_path / "net.d/10-lan.conflist").unlink()
    world.stop("one")


def test_a_plugin_that_is_not_ours_is_executed(world: NetworksWorld, tmp_path: Path) -> None:
    """Ours before it are answered here; it says what they said, as its request has it at the end."""
    foreign = tmp_path / "bin/foreign"
    foreign.parent.mkdir()
    foreign.write_text('#!/bin/sh\n[ $CNI_COMMAND = DEL ] || sed \'s/.*"prevResult": //; s/}$//\'\necho $CNI_COMMAND >>"$0.log"\n')
    foreign.chmod(0o755)
    ipam = {"type": "host-local", "subnet": "10.9.0.0/24"}
    conflist = {"cniVersion": "1.0.0", "name": "lan0", "plugins": [{"type": "ptp", "ipam": ipam}, {"type": "foreign"}]}
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d/10-lan.conflist").write_text(json.dumps(conflist))
    world.start("one", "lan0")
    assert world.address("one", "lan0") == "10.9.0.2"
    world.stop("one")
    assert foreign.with_name("foreign.log").read_text().split() == ["ADD", "DEL"]


def test_what_fails_half_way_leaves_nothing(world: NetworksWorld, tmp_path: Path) -> None:
    world.create("mine")
    (tmp_path / "net.d").mkdir()
    plugins = [{"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}, {"type": "missing"}]
    (tmp_path / "net.d/10-lan.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "lan0", "plugins": plugins}))
    with pytest.raises(EngineError, match=r"failed to create endpoint one on network lan0: .*there is no missing in"):
        world.start("one", "mine", "lan0", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    assert world.networks.members(world.networks.find("mine")) == {}
    world.serve("", 8080).close()
    world.restart(running=())
    assert world.host.call(read_ledger, Path("/var/lib/cni/tartan/journal")) == []


def test_a_bridge_that_is_somebody_elses_is_used_and_stays(world: NetworksWorld) -> None:
    world.machine.netns.ip("link add br9 type bridge")
    options = {"com.docker.network.bridge.name": "br9"}
    world.create("mine", options=options)
    world.start("one", "mine")
    world.stop("one")
    world.host.run(world.networks.remove(world.networks.find("mine")))
    with pytest.raises(Forbidden, match="bridge lan cannot be made: there is a veth interface of that name"):
        world.create("mine", options={"com.docker.network.bridge.name": "lan"})
    assert {"br9", "lan"} <= world.machine.links()


def test_where_docker0_is_another_engines_ours_has_another_name_and_subnet(tmp_path: Path) -> None:
    settings = Settings(layout=Layout(tmp_path / "root", Path("/run/tartan")), cni_conf_dir=tmp_path / "none")
    with engine_host() as host:
        host.netns.ip("link add docker0 type bridge")
        host.netns.ip("addr add 172.17.0.1/16 dev docker0")
        with networks_on(host, settings) as world:
            world.start("one")
            assert (world.networks.find("bridge").bridge, world.address("one")) == ("tartan0", "172.18.0.2")
