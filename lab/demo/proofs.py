"""What is proven about a lab that is up, one function each; must not know backends, nor how results are shown."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from itertools import permutations
from statistics import median
from typing import Any

from lab import LabError
from lab.demo.traffic import HTTP_PORT, IPAddress, can_route, http_get, http_server, round_trips_s, stream_bits_per_s
from lab.fabric import outside_addresses
from lab.lab import Lab
from lab.ping import ping_all
from lab.pods import LabHost, Pod

FILE_BYTES = 8_000_000
STREAM_S = 2.0
ECHOES = 300
EXCHANGE_ECHOES, EXCHANGE_PAUSE_S = 200, 0.4
"""10 ms apart: bgp has its sessions, and so its routes, a second after it was chosen."""


class Unproven(LabError):
    """Something else was found than what was to be shown."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One row of the table."""

    title: str
    find: Callable[[Lab], str]
    """Returns the cell; raises Unproven, LabError."""


@dataclass(frozen=True, slots=True)
class Station:
    """A host with its pod. There is one pod on each, so that whatever passes between two stations crosses the underlay."""

    host: LabHost
    host_ip: IPAddress
    pod: Pod
    pod_ip: IPAddress


def _every_pod_answers(lab: Lab) -> str:
    echoes = ping_all([station.pod for station in _stations(lab)])
    for echo in echoes:
        if echo.rtt_s is None:
            raise Unproven(f"{echo.source} -> {echo.destination} {echo.ip.ip}: {echo.failure}")
    return f"{len(echoes)} of {len(echoes)}"


def _files_arrive_whole(lab: Lab) -> str:
    file = os.urandom(FILE_BYTES)
    for client, server in _pairs(lab):
        way = f"{client.pod} -> {server.pod}"
        with http_server(server.pod, file), _on_the(way):
            _expect(f"{way}: SHA-256", http_get(client.pod, server.pod_ip).sha256, sha256(file).hexdigest())
    return "ok"


def _pods_see_pods(lab: Lab) -> str:
    for client, server in _pairs(lab):
        way = f"{client.pod} -> {server.pod}"
        with http_server(server.pod), _on_the(way):
            _expect(f"{way}: source", http_get(client.pod, server.pod_ip).client, client.pod_ip)
    return "ok"


def _pods_reach_hosts(lab: Lab) -> str:
    for client, server in _pairs(lab):
        with http_server(server.host), _on_the(f"{client.pod} -> {server.host.name}"):
            http_get(client.pod, server.host_ip)
    return "ok"


def _hosts_reach_pods(lab: Lab) -> str:
    for client, server in _pairs(lab):
        with http_server(server.pod), _on_the(f"{client.host.name} -> {server.pod}"):
            http_get(client.host, server.pod_ip)
    return "ok"


def _outside_sees_hosts(lab: Lab) -> str:
    server = outside_addresses(lab.topology, 2)[0].ip
    for client in _stations(lab):
        way = f"{client.pod} -> outside"
        with http_server(lab.outside), _on_the(way):
            _expect(f"{way}: source", http_get(client.pod, server).client, client.host_ip)
        for place in (lab.outside, lab.fabric):
            _expect(f"{place.name}: a route to {client.pod_ip}", can_route(place, client.pod_ip), False)
    return "ok"


def _host_ports_lead_to_pods(lab: Lab) -> str:
    """A pod with a port of its host: asked from the other hosts, by their pods too, then removed without a trace."""
    server, *others = _stations(lab)
    page = os.urandom(1000)
    web = server.host.pod("web", {HTTP_PORT: HTTP_PORT})
    with http_server(web, page):
        for place in (*(other.host for other in others), *(other.pod for other in others)):
            with _on_the(f"{place.name} -> port {HTTP_PORT} of {server.host.name}"):
                found = http_get(place, server.host_ip).sha256
            _expect(f"{place.name} -> {web}: SHA-256", found, sha256(page).hexdigest())
    server.host.remove_pod("web")
    listed = server.host.run(["tartan", "cni", "list", "--json"]).stdout
    _expect(f"pods that {server.host.name} still holds something for", "web" in listed, False)
    return "ok"


def _throughput(lab: Lab) -> str:
    source, destination, *_ = _stations(lab)
    with _on_the(f"{source.pod} -> {destination.pod}"):
        bits_per_s = stream_bits_per_s(source.pod, destination.pod, destination.pod_ip, STREAM_S)
    return f"{bits_per_s / 1e9:.2f}"


def _round_trip(lab: Lab) -> str:
    source, destination, *_ = _stations(lab)
    way = f"{source.pod} -> {destination.pod}"
    with _on_the(way):
        times = round_trips_s(source.pod, destination.pod_ip, ECHOES)
    _expect(f"{way}: echoes answered", len(times), ECHOES)
    return f"{median(times) * 1e6:.0f}"


def _exchange_backends(lab: Lab) -> str:
    """To another backend and back, while one pod pings another."""
    source, destination, *_ = _stations(lab)
    own: Any = lab.topology.network["Backend"]
    other = {"Type": "host-gw" if own["Type"] != "host-gw" else "vxlan"}
    ping = ["ping", "-q", "-i0.01", f"-c{EXCHANGE_ECHOES}", "-W2", str(destination.pod_ip)]
    with source.pod.popen(ping, stdout=subprocess.PIPE) as pinging:
        for backend in (other, own):
            for _host in lab.migrate(backend):
                pass
            time.sleep(EXCHANGE_PAUSE_S)
        said, _ = pinging.communicate()
    received = re.search(r"(\d+) received", said)
    _expect(f"{source.pod} -> {destination.pod}: echoes answered", int(received[1]) if received else said, EXCHANGE_ECHOES)
    return f"0 of {EXCHANGE_ECHOES}"


PROOFS = (
    Proof("ping between all pods", _every_pod_answers),
    Proof("HTTP between all pods: 8 MB, SHA-256 right", _files_arrive_whole),
    Proof("pods see each other's own addresses", _pods_see_pods),
    Proof("each pod to each other host", _pods_reach_hosts),
    Proof("each host to each other host's pod", _hosts_reach_pods),
    Proof("each pod to the outside, seen as its host", _outside_sees_hosts),
    Proof("a host's port leads to its pod, and goes with it", _host_ports_lead_to_pods),
    Proof("one TCP stream, pod to pod, Gbit/s", _throughput),
    Proof("round trip, pod to pod, median, us", _round_trip),
    Proof("echoes lost over an exchange of backends and back", _exchange_backends),
)


def _stations(lab: Lab) -> list[Station]:
    specs = zip(lab.topology.hosts, lab.hosts, strict=True)
    return [Station(host, spec.addresses[0].ip, pod, pod.addresses[0].ip) for spec, host in specs for pod in host.pods()[:1]]


def _pairs(lab: Lab) -> Iterator[tuple[Station, Station]]:
    return permutations(_stations(lab), 2)


@contextmanager
def _on_the(way: str) -> Iterator[None]:
    """Say between whom it was that the network failed."""
    try:
        yield
    except (OSError, HTTPException) as error:
        raise Unproven(f"{way}: {error or type(error).__name__}") from error


def _expect(what: str, found: object, expected: object) -> None:
    if str(found) != str(expected):
        raise Unproven(f"{what}: {found}, expected {expected}")
