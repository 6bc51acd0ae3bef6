"""Containers of the engine in flannel's overlay, on hosts of a lab whose flanneld serves CNI."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from flanneld_world import World, eventually, flanneld_world
from lab.pods import CNI_BIN, CNI_CONF
from runtime.config import PortBinding
from runtime.layout import Layout
from runtime.settings import Settings
from runtime_nets import EngineThread, NetworksWorld, engine_thread, networks_on


@contextmanager
def engines(world: World, directory: Path, *names: str) -> Iterator[list[NetworksWorld]]:
    """An engine's networks on each of the lab's hosts."""
    with ExitStack() as ends:
        made = []
        for name in names:
            there = EngineThread()
            ends.enter_context(engine_thread(there, world.lab.host(name).enter))
            layout = Layout(directory / name, Path("/run/tartan-engine"))
            made.append(ends.enter_context(networks_on(there, Settings(layout=layout, cni_conf_dir=CNI_CONF, cni_bin_dir=CNI_BIN))))
        yield made


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with flanneld_world(2) as made:
        for name in ("h1", "h2"):
            made.start(name).ready()
        yield made


def test_containers_of_two_hosts_reach_each_other_in_the_overlay(world: World, tmp_path: Path) -> None:
    with engines(world, tmp_path, "h1", "h2") as (here, there):
        here.start("one", "pods")
        web = there.start("web", "pods")
        assert web.endpoints["cbr0"].gateway == web.endpoints["cbr0"].ip_address.rpartition(".")[0] + ".1"
        assert there.host.call(there.networks.find, "pods").pools[0].gateway == web.endpoints["cbr0"].gateway
        with there.serve("web", 80):
            assert here.ask("one", there.address("web", "cbr0"), 80) == "web"
            assert here.ask("", there.address("web", "cbr0"), 80) == "web"


def test_a_bridge_beside_flanneld_is_plumbed_by_flanneld(world: World, tmp_path: Path) -> None:
    with engines(world, tmp_path, "h1") as (here,):
        here.start("web", port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
        with here.serve("web", 80):
            assert here.ask("", "127.0.0.1", 8080) == "web"
        journal = here.host.call(Path("/var/lib/cni/tartan/journal").read_text)
        assert here.records["web"].id in journal


def test_what_began_beside_flanneld_ends_without_it(world: World, tmp_path: Path) -> None:
    with engines(world, tmp_path, "h2") as (here,):
        here.start("web")
        flanneld = next(each for each in world.daemons if each.host.name == "h2")
        world.daemons.remove(flanneld)
        flanneld.end(signal.SIGKILL)
        here.stop("web")
        here.start("other")
        world.start("h2").ready()
        eventually(lambda: here.host.call(Path("/run/flannel/cni.sock").exists), "flanneld serves CNI again")
        here.stop("other")
        here.start("third")
