"""Networks by the docker command: addresses, names, published ports, links, and two networks at once."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from runtime_cli import Docker, host_spawn, served_on
from runtime_nets import HOST_ADDRESS, EngineHost, ask, engine_host

pytestmark = pytest.mark.root
SERVE = ("sh", "-c", "mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www")


@pytest.fixture(scope="module")
def machine() -> Iterator[tuple[EngineHost, Docker]]:
    with engine_host() as host, served_on(host_spawn(host)) as served:
        yield host, served.docker
        served.clear()


@pytest.fixture
def host(machine: tuple[EngineHost, Docker]) -> EngineHost:
    return machine[0]


@pytest.fixture
def docker(machine: tuple[EngineHost, Docker]) -> Iterator[Docker]:
    docker = machine[1]
    yield docker
    for list_, remove in (("ps -aq", "rm -fv"), ("network ls -qf type=custom", "network rm")):
        if ids := docker(list_).split():
            docker(remove, *ids)


def page(docker: Docker, client: str, address: str) -> str:
    """What an HTTP server has to say to a container."""
    docker.until(f"exec {client} timeout 5 wget -qO- http://{address}/", says=".")
    return docker(f"exec {client} wget -qO- http://{address}/")


def http(address: str, port: int) -> str:
    """What curl gets from where it is called."""
    got = subprocess.run(["curl", "-s", "--max-time", "5", f"http://{address}:{port}/"], capture_output=True, text=True, check=True)
    return got.stdout.strip()


def test_containers_of_a_users_network_find_each_other_by_name_alias_and_id(docker: Docker) -> None:
    docker("network create mine")
    identity = docker("run -d --name web --hostname box --network mine --network-alias www busybox", *SERVE)
    docker("run -d --name client --network mine busybox sleep 1000")
    for name in ("web", "www", identity[:12], "box", "web.mine"):
        assert page(docker, "client", name) == "box", name
    assert "nameserver 127.0.0.11" in docker("exec client cat /etc/resolv.conf")
    docker("rename web site")
    assert page(docker, "client", "site") == "box"
    assert docker.said("exec client nslookup nobody").code == 1


def test_networks_are_apart_and_a_container_may_be_in_both(docker: Docker) -> None:
    docker("network create one")
    docker("network create two")
    docker("run -d --name web --network one busybox", *SERVE)
    docker("run -d --name client --network two busybox sleep 1000")
    address = docker("inspect -f", "{{.NetworkSettings.Networks.one.IPAddress}}", "web")
    assert docker.said(f"exec client timeout 1 wget -qO- http://{address}/").code != 0
    docker("network connect --alias shared two web")
    assert page(docker, "client", "shared") == docker("exec web hostname")
    assert re.findall(r"\d: (eth\d)", docker("exec web ip -o -4 addr")) == ["eth0", "eth1"]
    docker("network disconnect two web")
    assert docker.said("exec client timeout 1 wget -qO- http://web/").code != 0
    assert "is not connected to network two" in docker.refused("network disconnect two web")


def test_an_address_and_a_mac_are_those_asked_for(docker: Docker) -> None:
    docker("network create --subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.128/25 mine")
    docker("run -d --name web --network mine --ip 10.9.0.7 --mac-address 02:42:0a:09:00:07 busybox sleep 1000")
    assert docker("exec web cat /sys/class/net/eth0/address") == "02:42:0a:09:00:07"
    assert "inet 10.9.0.7/24" in docker("exec web ip -o -4 addr show eth0")
    assert docker("exec web ip route").startswith("default via 10.9.0.254 dev eth0")
    docker("run -d --name next --network mine busybox sleep 1000")
    assert docker("inspect -f", "{{.NetworkSettings.Networks.mine.IPAddress}}", "next") == "10.9.0.128"
    assert "Address already in use" in docker.refused("run --rm --network mine --ip 10.9.0.7 busybox true", code=125)
    assert "no configured subnet" in docker.refused("run --rm --network mine --ip 10.8.0.7 busybox true", code=125)
    docker("restart -t 0 web")
    assert "inet 10.9.0.7/24" in docker("exec web ip -o -4 addr show eth0")


def test_two_networks_of_one_run_are_both_joined(docker: Docker) -> None:
    docker("network create --subnet 10.7.0.0/24 one")
    docker("network create --subnet 10.8.0.0/24 two")
    docker("run -d --name web --network name=one,alias=a,ip=10.7.0.9 --network name=two,ip=10.8.0.9 busybox sleep 1000")
    addresses = docker("exec web ip -o -4 addr")
    assert "10.7.0.9/24" in addresses
    assert "10.8.0.9/24" in addresses


def test_a_published_port_is_reached_from_everywhere_and_goes_with_the_container(docker: Docker, host: EngineHost) -> None:
    docker("run -d --name web --hostname web -p 8080:80 busybox", *SERVE)
    docker.until("exec web wget -qO- http://localhost/", says="web")
    assert host.call(http, "127.0.0.1", 8080) == "web"
    assert host.call(http, HOST_ADDRESS, 8080) == "web"
    asked = subprocess.run(
        ["ip", "netns", "exec", host.neighbour.name, "curl", "-s", "--max-time", "5", f"http://{HOST_ADDRESS}:8080/"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "web\n"
    assert docker("port web").startswith("80/tcp -> 0.0.0.0:8080")
    why = docker.refused("run --rm -p 8080:80 busybox true", code=125)
    assert "port is already allocated" in why
    docker("stop -t 0 web")
    with pytest.raises(OSError, match=r"refused|timed out"):
        host.call(ask, "127.0.0.1", 8080)
    docker("start web")
    docker.until("exec web wget -qO- http://localhost/", says="web")
    assert host.call(http, "127.0.0.1", 8080) == "web"


def test_ports_are_published_on_one_address_on_any_port_in_ranges_and_all_exposed(docker: Docker, host: EngineHost) -> None:
    docker("run -d --name web --hostname web -p 127.0.0.1:8081:80/tcp -p 53/udp -p 9000-9001:7000-7001 -p 81 busybox", *SERVE)
    ports = json.loads(docker("inspect -f", "{{json .NetworkSettings.Ports}}", "web"))
    assert ports["80/tcp"][0] == {"HostIp": "127.0.0.1", "HostPort": "8081"}
    assert all(int(ports[port][0]["HostPort"]) > 1024 for port in ("53/udp", "81/tcp"))
    assert [ports[f"{port}/tcp"][0]["HostPort"] for port in (7000, 7001)] == ["9000", "9001"]
    docker.until("exec web wget -qO- http://localhost/", says="web")
    assert host.call(http, "127.0.0.1", 8081) == "web"
    docker("run -d --name all -P --expose 81 --expose 82/udp busybox sleep 1000")
    assert re.fullmatch(r"81/tcp -> 0\.0\.0\.0:\d+(.*\n)+82/udp -> 0\.0\.0\.0:\d+(.*\n?)*", docker("port all"))


def test_links_name_another_container_in_the_default_network(docker: Docker) -> None:
    docker("run -d --name web --hostname box busybox", *SERVE)
    docker("run -d --name client --link web:www busybox sleep 1000")
    assert page(docker, "client", "www") == "box"
    assert "/web:/client/www" in docker("inspect -f", "{{json .HostConfig.Links}}", "client")


def test_an_internal_network_has_no_way_out(docker: Docker) -> None:
    docker("network create --internal inside")
    docker("run -d --name web --network inside busybox", *SERVE)
    assert docker.said(f"run --rm --network inside busybox ping -c1 -W1 {HOST_ADDRESS}").code != 0
    assert "default" not in docker("exec web ip route")


def test_a_network_without_icc_keeps_its_containers_apart(docker: Docker) -> None:
    docker("network create -o com.docker.network.bridge.enable_icc=false apart")
    docker("run -d --name web --network apart busybox", *SERVE)
    assert docker.said("run --rm --network apart busybox timeout 1 wget -qO- http://web/").code != 0


def test_a_network_of_two_families_gives_addresses_of_both(docker: Docker) -> None:
    docker("network create --ipv6 --subnet 10.6.0.0/24 --subnet fd00:6::/64 both")
    docker("run -d --name web --hostname web --network both busybox", *SERVE)
    docker("run -d --name client --network both busybox sleep 1000")
    assert page(docker, "client", "[fd00:6::2]") == "web"
    assert docker("inspect -f", "{{.NetworkSettings.Networks.both.GlobalIPv6Address}}", "web") == "fd00:6::2"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("network create bridge", "operation is not permitted on predefined bridge network"),
        ("network create -d weave mine", 'plugin "weave" not found'),
        ("network create --subnet 10.1.0.0/33 mine", "invalid subnet|invalid CIDR"),
        ("network create --subnet 10.1.0.0/24 --gateway 10.2.0.1 mine", "no matching subnet for gateway"),
        ("network rm bridge", "bridge is a pre-defined network and cannot be removed"),
        ("network rm nowhere", "network nowhere not found"),
        ("network inspect nowhere", "network nowhere not found"),
        ("network connect nowhere web", "network nowhere not found"),
        ("network connect bridge nobody", "No such container: nobody"),
        ("network ls -f colour=red", "invalid filter"),
    ],
)
def test_what_cannot_be_is_refused(docker: Docker, line: str, why: str) -> None:
    docker("create --name web busybox")
    assert re.search(why, docker.refused(line))


def test_networks_are_listed_inspected_and_pruned_as_used_or_not(docker: Docker) -> None:
    docker("network create --label a=b used")
    docker("network create --label a=b unused")
    docker("run -d --name web --network used busybox sleep 1000")
    assert docker("network ls -f label=a=b --format {{.Name}}").split() == ["unused", "used"]
    assert docker("network ls -f dangling=true --format {{.Name}}") == "unused"
    (found,) = json.loads(docker("network inspect used"))
    assert [member["Name"] for member in found["Containers"].values()] == ["web"]
    assert "network with name used already exists" in docker.refused("network create used")
    assert "has active endpoints" in docker.refused("network rm used")
    assert docker("network prune -f").split() == ["Deleted", "Networks:", "unused"]
