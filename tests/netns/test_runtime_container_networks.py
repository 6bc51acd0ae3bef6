"""Real containers in networks, and what becomes of those when the engine dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flanneld.linux import netns
from runtime.config import EndpointSettings, NetworkingConfig, PortBinding
from runtime.networks.network import NetworkRequest
from runtime_nets import HOST_ADDRESS, ask
from runtime_world import RuntimeWorld, WorldEngine, runtime_world

SERVE = ("sh", "-c", "while true; do echo -n hello | nc -l -p 80; done")
SLEEP = ("sleep", "600")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RuntimeWorld]:
    with runtime_world(tmp_path) as made:
        yield made


async def a_web_server_and_a_client(engine: WorldEngine) -> None:
    """In a network of their own; the server is published and has an alias."""
    await engine.networks.create(NetworkRequest(name="mine"))
    aliases = NetworkingConfig(endpoints_config={"mine": EndpointSettings(aliases=("www",))})
    ports = {"80/tcp": (PortBinding(host_port="8080"),)}
    await engine.started(*SERVE, name="web", network="mine", port_bindings=ports, networking_config=aliases)
    await engine.started(*SLEEP, name="client", network="mine")


def await_service(world: RuntimeWorld) -> None:
    """The client reaches the server by its alias, and a neighbour by the published port, once it listens (again)."""
    client = world.containers.find("client")
    world.until(lambda: world.exec(client, "sh", "-c", "nc -w 3 www 80 </dev/null") == (0, b"hello"), "www answers")
    world.until(lambda: published(world) == "hello", "port 8080 answers")


def published(world: RuntimeWorld) -> str:
    """What a neighbour hears at the published port; nc is away for a moment after each call."""
    with suppress(OSError):
        return netns.run_in(world.host.neighbour.path, ask, HOST_ADDRESS, 8080)
    return ""


def test_containers_find_each_other_by_name_and_are_reached_by_ports(world: RuntimeWorld) -> None:
    world.run(a_web_server_and_a_client(world.engine))
    web = world.containers.find("web")
    await_service(world)
    given = web.record.endpoints["mine"]
    assert web.record.ports == {"80/tcp": (PortBinding(host_ip="0.0.0.0", host_port="8080"),)}  # noqa: S104
    _, said = world.exec(web, "cat", "/etc/hosts")
    assert f"{given.ip_address}\t{web.id[:12]}\n".encode() in said
    world.run(world.containers.stop(web, 0, None))
    assert web.record.endpoints["mine"].ip_address == ""
    assert not world.exec(world.containers.find("client"), "nslookup", "www", "127.0.0.11")[1].count(given.ip_address.encode())


def test_networks_outlive_an_engine_that_is_killed(world: RuntimeWorld) -> None:
    world.kill_engine(a_web_server_and_a_client)
    await_service(world)
    web = world.containers.find("web")
    world.run(world.containers.restart(web, 0, None))
    await_service(world)
    network = world.engine.networks.find("mine")
    assert set(world.engine.networks.members(network)) == {web.id, world.containers.find("client").id}
