"""A lab as a whole: brought up, found again, taken down; the Python door to it.

with Lab.up(generate(hosts=3)) as lab:
    lab.host("h1").pod("web").run(["ping", "-c1", str(lab.host("h2").pod("db").addresses[0].ip)])
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from lab import LabError, daemon, etcd
from lab.fabric import build_fabric, plug_in, plug_in_router
from lab.furnish import furnishing
from lab.logs import last_lines
from lab.machines import Host, Router
from lab.place import KINDS, Place, keep_namespaces
from lab.pods import CNI_BIN, CNI_CONF, LabHost
from lab.routers import render_bird, start_bird
from lab.state import claim, directory_of, recall, release
from lab.topology import Topology

MIGRATION_S = 20.0
"""A hundred times what a host needs to change over."""
NOT_INHERITED = ("FLANNELD_", "ETCD_", "ETCDCTL_")
"""Beginnings of environment variables that are about the machine's own flanneld and etcd."""


class Lab:
    """A lab that is up, or about to be."""

    def __init__(self, name: str, directory: Path, topology: Topology) -> None:
        self.name = name
        self.topology = topology
        self.directory = directory
        self.etcd_url = etcd.etcd_url(topology)
        self._children: list[subprocess.Popen[str]] = []
        self.etcd_process: subprocess.Popen[str] | None = None
        """The lab's etcd, if it was this object that started it."""
        # What a user types in a lab finds the programs of this installation, and the lab's etcd.
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        usual = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        cni = {"CNI_PATH": str(CNI_BIN), "NETCONFPATH": str(CNI_CONF)}
        environment = {**usual, "PATH": path, "FLANNELD_ETCD_ENDPOINTS": self.etcd_url, **cni}
        self.fabric, self.outside = (Place(place, (directory / place / "net",), environment) for place in ("fabric", "outside"))
        self.hosts = tuple(
            LabHost(host.name, tuple(directory / host.name / kind for kind in KINDS), environment, directory / host.name)
            for host in topology.hosts
        )
        self.routers = tuple(
            Place(router.name, tuple(directory / router.name / kind for kind in KINDS), environment) for router in topology.routers
        )

    @classmethod
    def up(
        cls,
        topology: Topology,
        *,
        name: str = "lab",
        pods: int = 1,
        start_daemons: bool = True,
        program: Sequence[str] = daemon.PROGRAM,
    ) -> Self:
        """Bring a lab up: hosts, routers, etcd with the network config; if `start_daemons`, flanneld ready on each host, and pods.

        `pods` of them on each: p1, p2... `program` is what is started as flanneld. Raises LabError, FlanneldError; whatever is
        raised, nothing is left behind.
        """
        require_root()
        lab = cls(name, claim(name, topology), topology)
        try:
            lab._build()
            if start_daemons:
                lab._populate(pods, program)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def open(cls, name: str = "lab") -> Self:
        """Find a lab that is up; raises LabError when it is not."""
        require_root()
        return cls(name, directory_of(name), recall(name))

    def down(self) -> None:
        """End all that runs in the lab and take it away; may be repeated."""
        release(self.name)
        for child in self._children:
            child.wait()
        self._children.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def host(self, name: str) -> LabHost:
        """Raises LabError for a name that no host has."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"there is no host {name!r} in lab {self.name!r}, expected one of {', '.join(h.name for h in self.hosts)}")

    def place(self, name: str) -> Place:
        """A host, a router, the fabric or the outside; raises LabError for another name."""
        return {place.name: place for place in (self.fabric, self.outside, *self.routers)}.get(name) or self.host(name)

    def migrate(self, backend: Mapping[str, object]) -> Iterator[LabHost]:
        """Have all hosts reach each other by another backend, while pods go on; yields each host once its lease says so.

        `backend` is the `Backend` object of flannel's network config. Raises LabError when a host does not follow.
        """
        etcd.exchange_backend(self.fabric, backend)
        wanted = {kind: kind for kind in ("vxlan", "host-gw", "bgp")}.get(str(backend["Type"]), "")
        waiting = {str(spec.addresses[0].ip): host for spec, host in zip(self.topology.hosts, self.hosts, strict=True)}
        until = time.monotonic() + MIGRATION_S
        while waiting:
            published = etcd.published_backends(self.fabric)
            for ip in [ip for ip in waiting if published.get(ip) == wanted]:
                yield waiting.pop(ip)
            if time.monotonic() > until:
                name, log = next((host.name, self.flanneld_log(host)) for host in waiting.values())
                raise LabError(f"{name} does not change over:\n{last_lines(log)}")
            time.sleep(0.02)

    def flanneld_log(self, host: LabHost) -> Path:
        return host.directory / "flanneld.log"

    def router_log(self, router: Place) -> Path:
        return self.directory / router.name / "bird.log"

    def start_flanneld(self, host: LabHost, *flags: str, program: Sequence[str] = daemon.PROGRAM) -> subprocess.Popen[str]:
        """Start flanneld on a host with the lab's usual flags and these, and return at once; `down` ends it and waits for it."""
        labels = next(spec.labels for spec in self.topology.hosts if spec.name == host.name)
        usual = [f"--node-labels={','.join(f'{key}={value}' for key, value in labels.items())}"] if labels else []
        child = daemon.start_flanneld(host, self.etcd_url, self.flanneld_log(host), program, [*usual, *flags])
        self._children.append(child)
        return child

    def await_ready(self, host: LabHost, flanneld: subprocess.Popen[str]) -> None:
        """Wait until that host's flanneld is ready; raises LabError with its last words."""
        daemon.await_ready(host, flanneld, self.flanneld_log(host))

    def _build(self) -> None:
        build_fabric(self.topology, self.directory / "fabric/net", self.directory / "outside/net")
        server = etcd.start_etcd(self.fabric, self.etcd_url, self.directory / "fabric")
        self._children.append(server)
        self.etcd_process = server
        with ThreadPoolExecutor(max_workers=4) as threads:
            list(threads.map(self._build_host, self.topology.hosts))
            list(threads.map(self._build_router, self.topology.routers))
        for spec, router in zip(self.topology.routers, self.routers, strict=True):
            self._children.append(start_bird(router, render_bird(self.topology, spec), self.router_log(router)))
        etcd.configure(self.fabric, server, self.topology.network, self.directory / "fabric/etcd.log")

    def _build_host(self, host: Host) -> None:
        directory = self.directory / host.name
        directory.mkdir()
        net, *_ = keep_namespaces(directory, furnishing(self.topology, host.name))
        plug_in(self.topology, host, self.directory / "fabric/net", net)

    def _build_router(self, router: Router) -> None:
        directory = self.directory / router.name
        directory.mkdir()
        net, *_ = keep_namespaces(directory, furnishing(self.topology, router.name, pods=False))
        plug_in_router(self.topology, router, self.directory / "fabric/net", net)

    def _populate(self, pods: int, program: Sequence[str]) -> None:
        started = [(host, self.start_flanneld(host, program=program)) for host in self.hosts]
        for host, flanneld in started:
            self.await_ready(host, flanneld)
        for host in self.hosts:
            for number in range(1, pods + 1):
                host.pod(f"p{number}")


def require_root() -> None:
    """Raises LabError for anyone else: namespaces and mounts are root's."""
    if os.geteuid() != 0:
        raise LabError(f"labs are root's to make and enter, not user {os.geteuid()}'s: use sudo")
