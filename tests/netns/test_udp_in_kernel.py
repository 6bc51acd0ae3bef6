"""The udp backend with its data path in the kernel, as users have it: chosen, seen, damaged, left behind."""

from __future__ import annotations

import json
import signal
import sys
import time

from flanneld_world import NETWORK, World, eventually, flanneld_world, readyz, run
from lab.pods import LabHost
from traffic import address_of, meshed, ping, steady_ping, transferred


def config(path: str) -> dict[str, object]:
    return {**NETWORK, "Backend": {"Type": "udp", "DataPath": path}}


def told(world: World, name: str = "h1") -> dict[str, float]:
    """What was done with packets on that host, by what."""
    _, text = readyz(world.lab.host(name), path="/metrics")
    lines = [line for line in text.splitlines() if line.startswith("flanneld_data_path_packets_total{")]
    return {line.split('what="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def filters(host: LabHost) -> str:
    return run(host, "tc filter show dev eth0 ingress")


def test_auto_takes_the_kernel_and_says_so() -> None:
    with flanneld_world(2, config("auto")) as world:
        a, b = meshed(world)
        assert world.daemons[0].said("data path")[0]["path"] == "ebpf"
        content = bytes(range(256)) * 4096
        assert transferred(a, b, address_of(b), content) == content
        found = told(world)
        assert found["kernel_received"] > len(content) / 1500
        assert found["kernel_sent"] > 3
        _, text = readyz(world.lab.host("h1"), path="/metrics")
        assert 'path="ebpf"' in next(line for line in text.splitlines() if line.startswith("flanneld_data_path_info{"))
        assert found["received"] == 0, "nothing of it has passed through the process"


def test_a_program_that_somebody_detaches_comes_back_and_packets_go_on() -> None:
    with flanneld_world(2, config("ebpf")) as world:
        a, b = meshed(world)
        host = world.lab.host("h1")
        assert "tartan" in filters(host)
        with steady_ping(a, address_of(b)) as echoes:
            time.sleep(0.2)
            run(host, "tc filter del dev eth0 ingress")
            eventually(lambda: "tartan" in filters(host), "the program")
            time.sleep(0.2)
        assert echoes.lost <= 1
        assert told(world)["kernel_repaired"] == 1
        assert len(world.daemons[0].said("repaired")) >= 1


def test_the_data_path_is_exchanged_while_packets_go_on() -> None:
    with flanneld_world(2, config("tun")) as world:
        a, b = meshed(world)
        for path in ("native", "ebpf", "tun"):
            with steady_ping(a, address_of(b)) as echoes:
                time.sleep(0.3)
                said = len(world.daemons[0].said("change applied"))
                world.configure(config(path))
                for one in world.daemons:
                    eventually(lambda one=one, said=said: len(one.said("change applied")) > said, path)  # type: ignore[misc]
                time.sleep(0.5)
            assert echoes.lost <= 10, path
            assert ping(a, address_of(b))
        assert "tartan" not in filters(world.lab.host("h1"))


def test_what_a_killed_daemon_leaves_is_taken_over_or_taken_away() -> None:
    with flanneld_world(2, config("ebpf")) as world:
        a, b = meshed(world)
        host = world.lab.host("h1")
        with steady_ping(a, address_of(b)) as echoes:
            time.sleep(0.2)
            world.daemons[0].end(signal.SIGKILL)
            world.start("h1").ready()
            time.sleep(0.5)
        assert echoes.lost <= 5
        world.daemons[-1].end(signal.SIGKILL)
        assert "tartan" in filters(host)
        run(host, f"{sys.executable} -P -m tartan cleanup --yes --force")  # the TUN is still kept for a next run
        assert "tartan" not in filters(host)
        names = {link["ifname"] for link in json.loads(run(host, "ip -j link"))}
        assert not [name for name in names if name.startswith("flgro")]
