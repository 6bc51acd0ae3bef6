"""Ports of the host that lead to containers: which are asked for, which are free, and held; must not know how they lead there.

A port is held by a socket of ours that is bound to it: no process of the host can take it meanwhile, as no container can. Nothing
is ever read from these sockets, since what comes to the port is translated before it gets there.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from flanneld.log import Log
from runtime.config import PortBinding
from runtime.errors import EngineError, InvalidParameter
from runtime.networks.network import Published

log = Log(__name__)

LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_RANGE = (32768, 60999)
KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
ANYWHERE = {4: "0.0.0.0", 6: "::"}  # noqa: S104  # what "published" means
UNSUPPORTED = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT)
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the host, or of one of its addresses."""

    protocol: str
    address: str
    """0.0.0.0 or ::, every address of that family."""
    port: int

    def collides(self, other: HostPort) -> bool:
        """Whether both cannot be: the same port, at an address in common."""
        if (self.protocol, self.port, ":" in self.address) != (other.protocol, other.port, ":" in other.address):
            return False
        return self.address == other.address or bool({self.address, other.address} & set(ANYWHERE.values()))

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A container's port, to be published at the first of these ports of the host that is free."""

    container_port: int
    protocol: str
    address: str
    """"": every address."""
    ports: range | None
    """None: any."""

    @property
    def name(self) -> str:
        """As the API writes it."""
        return f"{self.container_port}/{self.protocol}"


def parse_port(text: str) -> tuple[int, int, str]:
    """ "80", "80/udp", "8000-8010/tcp": the first, the last, the protocol; raises InvalidParameter."""
    found = _PORT.fullmatch(text)
    if not found:
        raise InvalidParameter(f"invalid port specification: {text!r}")
    first, last = int(found[1]), int(found[2] or found[1])
    if not first <= last <= 65535:
        raise InvalidParameter(f"invalid port specification: {text!r}")
    return first, last, (found[3] or "tcp").lower()


def wanted_ports(
    bindings: Mapping[str, Sequence[PortBinding]], exposed: Iterable[str], publish_all: bool, default_address: str = ""
) -> list[Wanted]:
    """What is to be published, in the order of ports; raises InvalidParameter."""
    wanted: dict[Wanted, None] = {}
    for text, places in bindings.items():
        first, last, protocol = parse_port(text)
        for port in range(first, last + 1):
            for place in places or (PortBinding(),):
                wanted[_wanted(port, protocol, place, default_address)] = None
    for text in exposed if publish_all else ():
        first, last, protocol = parse_port(text)
        bound = {(each.container_port, each.protocol) for each in wanted}
        for port in range(first, last + 1):
            if (port, protocol) not in bound:
                wanted[_wanted(port, protocol, PortBinding(), default_address)] = None
    return sorted(wanted, key=lambda each: (each.container_port, each.protocol, each.address))


def _wanted(port: int, protocol: str, place: PortBinding, default_address: str) -> Wanted:
    if port < 1:
        raise InvalidParameter(f"invalid port specification: {port}/{protocol}")
    address = place.host_ip.strip("[]") or default_address
    if address:
        try:
            address = str(ip_address(address))
        except ValueError as error:
            raise InvalidParameter(f"invalid IP address: {place.host_ip}") from error
    if place.host_port in ("", "0"):
        return Wanted(port, protocol, address, None)
    first, last, _ = parse_port(place.host_port)
    if first == 0:
        raise InvalidParameter(f"invalid port specification: {place.host_port!r}")
    return Wanted(port, protocol, address, range(first, last + 1))


def all_ports(exposed: Iterable[str], published: Published) -> Published:
    """With those that are exposed and lead nowhere; raises InvalidParameter."""
    shown: Published = {}
    for text in exposed:
        first, last, protocol = parse_port(text)
        shown |= {f"{port}/{protocol}": () for port in range(first, last + 1)}
    return shown | published


@dataclass(slots=True)
class Ports:
    """All ports that containers have. For one thread."""

    _held: dict[HostPort, tuple[str, socket.socket | None]] = field(default_factory=dict)
    """With the container's id; no socket where this kernel has no such protocol, or somebody else got there first."""
    _last: int = 0

    def take(self, container_id: str, wanted: Iterable[Wanted], families: Sequence[int]) -> Published:
        """Hold a port for each; returns them by the container's port. Raises EngineError in Docker's words, and then holds none."""
        taken: Published = {}
        try:
            for each in wanted:
                places = self._take(container_id, each, _addresses(each, families))
                bindings = (PortBinding(host_ip=place.address, host_port=str(place.port)) for place in places)
                taken[each.name] = (*taken.get(each.name, ()), *bindings)
        except BaseException:
            self.free(container_id)
            raise
        return taken

    def hold_again(self, container_id: str, bindings: Mapping[str, Sequence[PortBinding]]) -> None:
        """Hold what a container has already, from before this process."""
        for text, places in bindings.items():
            *_, protocol = parse_port(text)
            for place in places:
                port = HostPort(protocol, place.host_ip, int(place.host_port))
                try:
                    self._held[port] = (container_id, _bound(port))
                except OSError as error:
                    log.warning("published port is taken", port=port, container=container_id[:12], why=error.strerror)
                    self._held[port] = (container_id, None)

    def free(self, container_id: str) -> None:
        """Let go of all that the container has."""
        for port in [port for port, (holder, _) in self._held.items() if holder == container_id]:
            _, held = self._held.pop(port)
            if held is not None:
                held.close()

    def close(self) -> None:
        """Let go of all sockets: another engine will hold the ports."""
        for _, held in self._held.values():
            if held is not None:
                held.close()
        self._held.clear()

    def _take(self, container_id: str, wanted: Wanted, addresses: Sequence[str]) -> list[HostPort]:
        first_refusal: EngineError | None = None
        for number in self._candidates(wanted):
            places = [HostPort(wanted.protocol, address, number) for address in addresses]
            try:
                self._hold(container_id, places)
            except EngineError as error:
                first_refusal = first_refusal or error
                continue
            if wanted.ports is None:
                self._last = number
            return places
        raise first_refusal or EngineError("all ports are allocated")

    def _hold(self, container_id: str, places: Sequence[HostPort]) -> None:
        held: list[HostPort] = []
        try:
            for place in places:
                if any(place.collides(other) for other in self._held):
                    raise EngineError(f"Bind for {place} failed: port is already allocated")
                try:
                    self._held[place] = (container_id, _bound(place))
                except OSError as error:
                    why = os.strerror(error.errno or errno.EIO).lower()
                    raise EngineError(f"failed to bind host port {place}/{place.protocol}: {why}") from error
                held.append(place)
        except EngineError:
            for place in held:
                _, bound = self._held.pop(place)
                if bound is not None:
                    bound.close()
            raise

    def _candidates(self, wanted: Wanted) -> Iterator[int]:
        if wanted.ports is not None:
            yield from wanted.ports
            return
        first, last = ephemeral_range()
        start = self._last + 1 if first <= self._last < last else first
        yield from range(start, last + 1)
        yield from range(first, start)


def _addresses(wanted: Wanted, families: Sequence[int]) -> list[str]:
    if wanted.address:
        if ip_address(wanted.address).version not in families:
            raise EngineError(f"invalid host address {wanted.address}: the container has no address of its family")
        return [wanted.address]
    return [ANYWHERE[family] for family in families]


def ephemeral_range() -> tuple[int, int]:
    """The first and the last port that nobody has to ask for."""
    with suppress(OSError, ValueError):
        first, last = map(int, LOCAL_PORTS.read_text().split())
        return first, last
    return USUAL_RANGE


def _bound(port: HostPort) -> socket.socket | None:
    """A socket that has it; None when this kernel knows no such protocol. Raises OSError."""
    kind, protocol = KINDS[port.protocol]
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    try:
        held = socket.socket(family, kind, protocol)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:  # connections of a former service that are still dying are no obstacle
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((port.address, port.port))
        if kind == socket.SOCK_STREAM:
            held.listen(1)  # or another that reuses addresses could have it too
    except BaseException:
        held.close()
        raise
    return held
