"""Do peers answer, at the address that we send to and through the overlay: ICMP echo (RFC 792, RFC 4443 §4.1) to all at once."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from flanneld.lease import IPAddress, Lease, family_of
from flanneld.wire.checksum import checksum
from tartan.checks.finding import Finding, counted, error, ok, warning
from tartan.checks.peers import named

ECHO = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
PROTOCOL = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}
REQUEST, REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
TRIES, PATIENCE_S = 3, 0.7
"""For each try."""
BURST, BREATH_S = 64, 0.02
"""So many are asked before it is listened for a moment: more answers would not fit a socket's buffer."""
OVERLAYS = ("vxlan", "udp")
"""Methods whose device has the subnet's first address, which answers whether there are pods or not."""


@dataclass(slots=True)
class Answers:
    """What became of the questions."""

    rtt_s: dict[IPAddress, float] = field(default_factory=dict)
    refused: dict[IPAddress, str] = field(default_factory=dict)
    """Why our own kernel did not even send."""


@dataclass(frozen=True, slots=True)
class Target:
    """A peer with the addresses of one family to ask."""

    peer: Lease
    underlay: IPAddress
    overlay: IPAddress | None


def targets(method: Mapping[Lease, str]) -> list[Target]:
    """Whom to ask; `method` is the backend type by which each peer is reached."""
    found = []
    for peer, backend_type in method.items():
        for subnet in peer.subnets:
            public_ip = peer.attrs.public_ip(family_of(subnet))
            if public_ip is not None:
                found.append(Target(peer, public_ip, subnet.network_address if backend_type in OVERLAYS else None))
    return found


def ask(asked: Sequence[Target]) -> Answers:
    """Ask every address, those that do not answer again; takes PATIENCE_S times TRIES at most. Raises OSError without rights."""
    answers = Answers()
    addresses = dict.fromkeys(ip for one in asked for ip in (one.underlay, one.overlay) if ip is not None)
    for family in (4, 6):
        if those := [ip for ip in addresses if ip.version == family]:
            _ask(family, those, answers)
    return answers


def _ask(family: int, addresses: Sequence[IPAddress], answers: Answers) -> None:
    kind, protocol = PROTOCOL[family]
    identifier = os.getpid() & 0xFFFF
    with socket.socket(kind, socket.SOCK_RAW, protocol) as sock:
        sock.setblocking(False)
        for _ in range(TRIES):
            waiting: dict[int, tuple[IPAddress, float]] = {}
            for number, ip in enumerate(addresses):
                if ip not in answers.rtt_s:
                    _send(sock, _request(family, identifier, number & 0xFFFF), ip, answers)
                    waiting[number & 0xFFFF] = (ip, time.perf_counter())
                if number % BURST == BURST - 1:
                    _listen(sock, (family, identifier), waiting, answers, BREATH_S)
            _listen(sock, (family, identifier), waiting, answers, PATIENCE_S)
            if all(ip in answers.rtt_s for ip in addresses):
                return


def _send(sock: socket.socket, request: bytes, ip: IPAddress, answers: Answers) -> None:
    try:
        sock.sendto(request, (str(ip), 0))
        answers.refused.pop(ip, None)
    except OSError as failure:
        answers.refused[ip] = os.strerror(failure.errno or 0).lower()


def _listen(
    sock: socket.socket,
    reply_to: tuple[int, int],
    waiting: dict[int, tuple[IPAddress, float]],
    answers: Answers,
    patience_s: float,
) -> None:
    """Note what comes, for so long or until nobody is waited for; `reply_to` is our family and identifier."""
    family, identifier = reply_to
    until = time.perf_counter() + patience_s
    while waiting and (left := until - time.perf_counter()) > 0 and select.select([sock], [], [], left)[0]:
        packet = sock.recv(2048)
        message = packet[(packet[0] & 0xF) * 4 :] if family == 4 else packet
        if len(message) < ECHO.size:
            continue
        kind, _, _, asked_by, number = ECHO.unpack_from(message)
        if kind == REPLY[family] and asked_by == identifier and number in waiting:
            ip, at = waiting.pop(number)
            answers.rtt_s[ip] = time.perf_counter() - at


def _request(family: int, identifier: int, number: int) -> bytes:
    """In IPv6 the kernel fills in the checksum."""
    bare = ECHO.pack(REQUEST[family], 0, 0, identifier, number)
    return ECHO.pack(REQUEST[family], 0, checksum(bare) if family == 4 else 0, identifier, number)


def check_reach(asked: Collection[Target], answers: Answers, port: str) -> list[Finding]:
    """`port`: what the overlay's packets need to pass, in words."""
    found = [finding for one in asked if (finding := _check(one, answers, port)) is not None]
    times = [answers.rtt_s[ip] * 1000 for one in asked for ip in (one.underlay, one.overlay) if ip in answers.rtt_s]
    if found or not times:
        return found
    return [ok("reach", f"{counted(len(asked), 'peer')}, answers in {min(times):.2f} to {max(times):.2f} ms")]


def _check(one: Target, answers: Answers, port: str) -> Finding | None:
    under, over = one.underlay in answers.rtt_s, one.overlay in answers.rtt_s
    if (over or one.overlay is None) and under:
        return None
    if over:
        why = f"{named(one.peer)} answers through the overlay, but not to a ping of {one.underlay}"
        return warning("reach", why, f"ping -c1 {one.underlay}", "nothing, if a firewall there lets no ping pass")
    if under:
        why = f"{named(one.peer)} answers at {one.underlay}, but not at {one.overlay} through the overlay"
        remedy = f"let {port} pass between the hosts, in both directions; run tartan doctor there"
        return error("reach", why + _refused(answers, one.overlay), f"ping -c1 {one.overlay}", remedy)
    why = f"{named(one.peer)} does not answer at all" + _refused(answers, one.underlay)
    remedy = "see if that host is up, and the way to it; if it is no more, delete its lease's key"
    return error("reach", why, f"ping -c1 {one.underlay}; ip route get {one.underlay}", remedy)


def _refused(answers: Answers, ip: IPAddress | None) -> str:
    return f" ({answers.refused[ip]})" if ip in answers.refused else ""
