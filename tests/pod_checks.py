"""What every container runtime must get from every set of CNI plugins, on two hosts of a lab; must not know any of them.

A runtime is anything with a `Runtime`'s verbs: `containerd_host` and `podman_host` make two.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

from cni_plugin_sets import PROGRAMS, PluginSet
from host_traces import left_behind, traces
from lab import LabError
from lab.lab import Lab
from lab.place import Place
from lab.pods import LabHost
from lab.topology import generate
from oci_image import write_image

Ports: TypeAlias = Mapping[int, int]
"""Container ports by host port; TCP."""
NO_PORTS: Ports = {}
PORT = 8080
PAGE_S = 3
"""How long a page may take that takes milliseconds."""
START_S = 10.0
"""The same for the start of a server."""
CURL = ("curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", str(PAGE_S))
REFUSED = 7
"""curl's exit code for a server that is not there."""
KINDS = {"file", "link", "netns", "process"}
"""Traces that every running pod has, by their first word; its rules are told apart by what is in them."""


class RunningPod(Protocol):
    """A container that runs `oci_image.SERVE`."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> IPv4Address | IPv6Address: ...
    def exec(self, *argv: str) -> str: ...
    def remove(self) -> None: ...


class Runtime(Protocol):
    """A container runtime on a host."""

    host: LabHost
    cgroup: str

    def run_pod(self, name: str, ports: Ports = NO_PORTS) -> RunningPod: ...
    def clear(self) -> None: ...


R = TypeVar("R", bound=Runtime)


@dataclass(frozen=True)
class TwoHosts(Generic[R]):
    """A runtime on each of two hosts, and what was on the hosts before the first pod."""

    here: R
    there: R
    plugins: PluginSet
    before: Mapping[str, set[str]]
    """Traces by host, and what a pod has left since: each is told once."""

    def check_nothing_left(self) -> None:
        """Fail if there is something on the hosts that should have gone with its pod."""
        found = []
        for runtime in (self.here, self.there):
            before = self.before[runtime.host.name]
            left = left_behind(runtime.host, runtime.cgroup, before, self.plugins.permanent)
            before.update(left)
            found += [f"{runtime.host.name}: {trace}" for trace in left]
        assert not found, "left behind:\n" + "\n".join(found)

    def clear(self) -> None:
        """End every pod, and fail if one leaves something."""
        for runtime in (self.here, self.there):
            runtime.clear()
        self.check_nothing_left()


@contextmanager
def two_hosts(
    plugins: PluginSet, directory: Path, start: Callable[[LabHost, PluginSet, Path], AbstractContextManager[R]]
) -> Iterator[TwoHosts[R]]:
    """A lab of two hosts with flanneld and a runtime on each; the image is written to `directory`."""
    image = directory / "busybox.tar"
    write_image(image, PROGRAMS / "busybox")
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.up(generate(2), name=f"t{uuid.uuid4().hex[:8]}", pods=0))
        here, there = (stack.enter_context(start(host, plugins, image)) for host in lab.hosts)
        yield TwoHosts(here, there, plugins, {one.host.name: traces(one.host, one.cgroup) for one in (here, there)})


def page(url: str, client: RunningPod | Place) -> str:
    """What a pod or a place gets from a server that may still be starting: the name of the pod that answers."""
    until = time.monotonic() + START_S
    while True:
        try:
            if isinstance(client, Place):
                return client.run([*CURL, url]).stdout.strip()
            return client.exec("timeout", str(PAGE_S), "wget", "-q", "-O-", url).strip()
        except LabError:
            if time.monotonic() > until:
                raise
        time.sleep(0.02)


def reaches(one: RunningPod, other: RunningPod) -> None:
    """By ICMP and by HTTP, both ways."""
    for client, server in ((one, other), (other, one)):
        assert " 0% packet loss" in client.exec("ping", "-c1", "-W5", str(server.address))
        assert page(f"http://{server.address}/", client) == server.name


def pods_on_two_hosts_reach_each_other(hosts: TwoHosts[R]) -> None:
    reaches(hosts.here.run_pod("left"), hosts.there.run_pod("right"))


def two_pods_of_one_host_reach_each_other(hosts: TwoHosts[R]) -> None:
    one, other = hosts.here.run_pod("one"), hosts.here.run_pod("other")
    assert one.address != other.address
    reaches(one, other)


def a_host_port_is_open_to_everybody(hosts: TwoHosts[R]) -> None:
    """To the other host, the host itself, by its address and by loopback, pods of both, and the pod behind it."""
    web, far, near = hosts.here.run_pod("web", {PORT: 80}), hosts.there.run_pod("far"), hosts.here.run_pod("near")
    address = hosts.here.host.run(["hostname", "-I"]).stdout.split()[0]
    for client in (hosts.there.host, hosts.here.host, far, near, web):
        assert page(f"http://{address}:{PORT}/", client) == "web"
    assert page(f"http://127.0.0.1:{PORT}/", hosts.here.host) == "web"


def a_host_port_goes_with_its_pod(hosts: TwoHosts[R]) -> None:
    """And is then another's."""
    client, address = hosts.there.host, hosts.here.host.run(["hostname", "-I"]).stdout.split()[0]
    for name in ("first", "second"):
        pod = hosts.here.run_pod(name, {PORT: 80})
        assert page(f"http://{address}:{PORT}/", client) == name
        pod.remove()
        assert client.run([*CURL, f"http://{address}:{PORT}/"], check=False).returncode == REFUSED


def a_pod_that_is_removed_leaves_nothing(hosts: TwoHosts[R]) -> None:
    pod = hosts.here.run_pod("short", {PORT: 80})
    shown = traces(hosts.here.host, hosts.here.cgroup) - hosts.before[hosts.here.host.name]
    assert {trace.split()[0] for trace in shown} >= KINDS
    assert any(str(pod.address) in trace and str(PORT) in trace for trace in shown if "nft " in trace or "iptables" in trace)
    pod.remove()
    hosts.check_nothing_left()
