"""`docker run --net pods` on two hosts whose flanneld makes one network of them, by each kind of overlay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from bgp_world import bgp
from flanneld_world import NETWORK, flanneld_world
from lab.pods import CNI_BIN, CNI_CONF, LabHost
from runtime_cli import Docker, Spawn, served_on
from traffic import meshed

pytestmark = pytest.mark.root
SERVE = ("sh", "-c", "mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www")
KINDS = {
    "vxlan": NETWORK,
    "host-gw": {**NETWORK, "Backend": {"Type": "host-gw"}},
    "udp": {**NETWORK, "Backend": {"Type": "udp"}},
    "bgp": bgp(),
}


def spawn_on(host: LabHost) -> Spawn:
    """Starts commands there."""

    def spawn(command: Sequence[str], log: Path) -> Popen[str]:
        return host.start(command, log)

    return spawn


@contextmanager
def engines(hosts: Sequence[LabHost]) -> Iterator[list[Docker]]:
    """An engine on each."""
    options = ("--cni-conf-dir", str(CNI_CONF), "--cni-bin-dir", str(CNI_BIN))
    with ExitStack() as stack:
        yield [stack.enter_context(served_on(spawn_on(host), *options)).docker for host in hosts]


@pytest.mark.parametrize("kind", KINDS)
def test_containers_of_two_hosts_reach_each_other(kind: str) -> None:
    with flanneld_world(2, network=KINDS[kind]) as world:
        meshed(world, "h1", "h2")
        with engines([world.lab.host("h1"), world.lab.host("h2")]) as (here, there):
            there("run -d --name web --hostname web --net pods busybox", *SERVE)
            there.until("exec web wget -qO- http://localhost/", says="web")
            address = there("inspect -f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "web")
            assert here(f"run --rm --net pods busybox wget -qO- http://{address}/") == "web"
            assert "cni" in here("network ls --format", "{{.Name}} {{.Driver}}")
            assert there("rm -f web") == "web"
