"""The lab's BGP routers: BIRD 2 with a config that follows from the topology; must not know what hosts announce.

    leaf     eBGP with the hosts on its segments: told their pod subnets, and tells them everybody else's
    routers  tell each other all that they know, the segments that they join included

BIRD's User's Guide §6.3 (bgp); RFC 4271, RFC 7938 (BGP as the only routing protocol of a data centre).
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import LabError
from lab.logs import last_lines
from lab.machines import Host, IPInterface, Router
from lab.place import Place
from lab.topology import Topology

DIRECTORY = Path("/run/bird")
"""Private to each router; where Debian's `birdc` looks for the socket, so that `tartan lab exec leaf1 -- birdc` needs no option."""
CONFIG, CONTROL = DIRECTORY / "bird.conf", DIRECTORY / "bird.ctl"
START_S = 15.0
HOLD_S = 9
"""As the bgp backend's: a dead neighbour is noticed in that time."""
ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class Sessions:
    """How a router is with its neighbours."""

    established: int
    all: int

    def __str__(self) -> str:
        return f"{self.established} of {self.all} sessions up"


@dataclass(frozen=True, slots=True)
class Session:
    """One neighbour of a router, by one address family, which is the one that is spoken of."""

    name: str
    local: IPInterface
    neighbour: IPInterface
    peer: Host | Router


def sessions_of(topology: Topology, router: Router) -> tuple[Session, ...]:
    """With each host and each other router on its segments; of each family one, as it needs no next hop of another then."""
    return tuple(
        Session(_session_name(topology, router, peer, ip), local, ip, peer)
        for local in router.addresses
        for peer in topology.machines
        if peer is not router
        for ip in peer.addresses
        if ip.network == local.network
    )


def _session_name(topology: Topology, router: Router, peer: Host | Router, ip: IPInterface) -> str:
    """The neighbour's; with two on several common segments, the segment's too."""
    common = [other for other in peer.addresses if other.version == ip.version and router.at(other.network)]
    segment = next(each.name for each in topology.segments if ip.network in [own.network for own in each.routers])
    return peer.name + (f".{segment}" if len(common) > 1 else "") + (".v6" if ip.version == 6 else "")


def render_bird(topology: Topology, router: Router) -> str:
    """bird.conf for BIRD 2."""
    bfd = ['protocol bfd { interface "*" { interval 100 ms; multiplier 3; }; }'] if router.bfd else []
    lines = [
        "log stderr all;",
        f"router id {router.router_id};",
        *_segments(topology),
        "protocol device { }",
        "protocol direct { ipv4; ipv6; }  # the segments that it joins",
        *(f"protocol kernel {{ ipv{v} {{ import none; export where source = RTS_BGP; }}; merge paths on; }}" for v in (4, 6)),
        *bfd,
        *(_session(router, session) for session in sessions_of(topology, router)),
    ]
    return "\n".join([*lines, ""])


def _segments(topology: Topology) -> Iterator[str]:
    for version in (4, 6):
        subnets = [str(ip.network) for segment in topology.segments for ip in segment.routers if ip.version == version]
        if subnets:
            yield f"define SEGMENTS{version} = [ {', '.join(subnets)} ];"


def _session(router: Router, session: Session) -> str:
    version, peer = session.neighbour.version, session.peer
    asn = "external" if peer.asn is None else f"as {peer.asn}"
    watched = router.bfd and (isinstance(peer, Host) or peer.bfd)
    body = [
        f"local {session.local.ip} as {router.asn};",
        f"neighbor {session.neighbour.ip} {asn};",
        f"hold time {HOLD_S}; connect delay time 0; connect retry time 1; error wait time 1, 5;",
        *(["bfd on;"] if watched else []),
        *(["rr client;"] if isinstance(peer, Host) and peer.asn == router.asn else []),
        f"ipv{version} {{ import all; {_to_router() if isinstance(peer, Router) else _to_host(router, peer, version)} }};",
    ]
    lines = "\n".join(f"  {line}" for line in body)
    return f"protocol bgp '{session.name}' {{\n{lines}\n}}"


def _to_router() -> str:
    return "export where source ~ [RTS_DEVICE, RTS_BGP]; next hop self;"


def _to_host(router: Router, host: Host, version: int) -> str:
    """A host needs no route to segments, as the router is its gateway; what has been in its own AS it would refuse."""
    looped = f" && !(bgp_path ~ [= * {host.asn} * =])" if host.asn not in (None, router.asn) else ""
    return f"export where source = RTS_BGP && !(net ~ SEGMENTS{version}){looped}; next hop self ebgp;"


def start_bird(place: Place, config: str, log: Path) -> subprocess.Popen[str]:
    """Start it, and wait until it answers; raises LabError with its last words, or what to do when there is no such program."""
    place.call(_write_config, config)
    try:
        bird = place.start(["bird", "-f", "-c", str(CONFIG), "-s", str(CONTROL)], log)
    except FileNotFoundError:
        raise LabError(
            f"there is no program bird on the PATH, for router {place.name}: `sudo ./dev setup` brings it, as does Debian's bird2"
        ) from None
    until = time.monotonic() + START_S
    while sessions(place) is None:
        if bird.poll() is not None or time.monotonic() > until:
            raise LabError(f"bird on {place.name} does not start:\n{last_lines(log)}")
        time.sleep(0.01)
    return bird


def sessions(place: Place) -> Sessions | None:
    """Ask a router's BIRD; None: it does not run, or does not answer."""
    try:
        told = place.call(_ask, "show protocols")
    except OSError:
        return None
    states = re.findall(r"^(?:\d{4}-| )\S+ +BGP +\S+ +\S+ +\S+ +(\S*)", told, re.MULTILINE)
    return Sessions(states.count("Established"), len(states))


def _write_config(text: str) -> None:
    DIRECTORY.mkdir(exist_ok=True)
    CONFIG.write_text(text)


def _ask(command: str) -> str:
    """One command of BIRD's control socket: a greeting, then lines `NNNN-text` or ` text`, and `NNNN text` as the last."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(ANSWER_S)
        control.connect(str(CONTROL))
        with control.makefile("rw", encoding="utf-8", errors="replace") as stream:
            stream.readline()
            stream.write(f"{command}\n")
            stream.flush()
            lines: list[str] = []
            while not lines or not re.match(r"\d{4} ", lines[-1]):
                line = stream.readline()
                if not line:
                    raise ConnectionResetError(f"no more after {lines}")
                lines.append(line)
    return "".join(lines)
