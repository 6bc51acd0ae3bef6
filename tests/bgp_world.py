"""flanneld by BGP on a lab's hosts: what its tests configure, end, and ask."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bgp.bfd.settings import MODULE
from bgp.control import SOCKET, ControlError, ask
from bgp.process import running_here
from bgp.speaker.child import LAUNCHER
from flanneld_world import NETWORK, Flanneld, World, eventually, flanneld_world, run
from lab.pods import SUBNET_FILE, LabHost, Pod
from traffic import address_of, await_peers, ping, steady_ping

DUAL: Mapping[str, object] = {**NETWORK, "EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}
STATE = SUBNET_FILE.with_name(f"{SUBNET_FILE.name}.state") / "bgp"
"""Where the method keeps what outlives the daemon."""
HOLD_S = 9.0
"""The hold time, unless the config has another."""


def bgp(network: Mapping[str, object] = NETWORK, **keys: object) -> dict[str, object]:
    """A network config with this method; the keys of the `Backend` object as a user writes them."""
    return {**network, "Backend": {"Type": "bgp", **keys}}


@contextmanager
def bgp_world(hosts: int = 3, *, ipv6: bool = False, most_lines: int = 100, **keys: object) -> Iterator[World]:
    """A lab for this method; nothing runs yet. Sessions come and go in these tests, with a line each: so there are more of them."""
    with flanneld_world(hosts, bgp(DUAL if ipv6 else NETWORK, **keys), ipv6=ipv6) as world:
        world.most_lines = most_lines
        yield world


def exabgp(host: LabHost) -> list[int]:
    """The process ids of every exabgp on the host."""
    return host.call(lambda: [found.pid for found in running_here(LAUNCHER)])


def bfd_processes(host: LabHost) -> list[int]:
    """The process ids of BFD on the host."""
    return host.call(lambda: [found.pid for found in running_here(MODULE)])


def kill_exabgp(host: LabHost, number: int = signal.SIGKILL) -> None:
    """End it, or send it another signal."""
    (pid,) = exabgp(host)
    os.kill(pid, number)


def asked(host: LabHost, **question: object) -> Any:
    """What the host's daemon answers to a person."""
    return host.call(ask, STATE / SOCKET, question)


def peers_of(host: LabHost) -> dict[str, dict[str, Any]]:
    """The host's sessions by neighbour, as the daemon tells them."""
    return {peer["peer"]: peer for peer in asked(host, do="peers")}


def established(host: LabHost) -> set[str]:
    """Its neighbours with an established session; none while no daemon answers."""
    try:
        return {peer for peer, told in peers_of(host).items() if told["state"] == "established"}
    except ControlError:
        return set()


def connections(host: LabHost) -> set[str]:
    """Its established BGP connections as `ss` has them, each by both ends: another connection is another session."""
    lines = run(host, "ss -Htn state established").splitlines()
    return {" ".join(line.split()[2:4]) for line in lines if re.search(r":179\b", line)}


def routes(host: LabHost, family: int = 4) -> dict[str, str]:
    """Ours to other hosts, by destination: where they lead."""
    lines = run(host, f"ip -{family} route show proto 84").splitlines()
    return {line.split()[0]: line.split()[2] for line in lines if line.split()[1] == "via"}


def all_reach_all(pods: Sequence[Pod], families: Sequence[int] = (4,)) -> None:
    """Wait until every pod reaches every other."""
    for family in families:
        for one in pods:
            for other in pods:
                if one is not other:
                    eventually(lambda: ping(one, address_of(other, family)), f"{one} reaches {other} by IPv{family}")  # noqa: B023


def again(world: World, name: str, peers: int) -> Flanneld:
    """Start the daemon of that host again, in its old place; returns when it has sessions with so many peers."""
    place = next(number for number, one in enumerate(world.daemons) if one.host.name == name)
    world.daemons[place] = world.start(name)
    world.daemons.pop()
    await_peers(world.daemons[place].ready(), peers)
    eventually(lambda: len(established(world.lab.host(name))) == peers, f"{peers} sessions")
    return world.daemons[place]


@contextmanager
def nothing_lost(pods: Sequence[Pod], families: Sequence[int] = (4,)) -> Iterator[None]:
    """From each pod to each other, every 10 ms."""
    with ExitStack() as stack:
        told = {
            f"{one} to {other} by IPv{family}": stack.enter_context(steady_ping(one, address_of(other, family)))
            for one in pods
            for other in pods
            for family in families
            if one is not other
        }
        yield
    assert {way: echoes.lost for way, echoes in told.items() if echoes.lost} == {}


def is_alive(pid: int) -> bool:
    """One that has ended may wait for whoever became its parent."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False
