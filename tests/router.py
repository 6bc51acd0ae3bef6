"""A BGP router that is no part of this project, as tests see it: started in a network namespace, asked, ended; must not know whose.

Its programs and files last as long as its context. Nothing else on the machine is written, and no account is needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias, TypeVar

from flanneld.lease import IPAddress, IPNetwork
from netns_programs import NetnsPrograms
from router_configs import RouterPlan

T = TypeVar("T")
NextHops: TypeAlias = frozenset[IPAddress]

PATIENCE_S = 30.0
"""How long a session may take, on a machine that does much else."""


class SessionState(Enum):
    """RFC 4271 §8.2.2."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        """For states by other names, in which a router waits for its neighbour or has none."""
        others = {"Passive": cls.ACTIVE, "Close": cls.IDLE, "Down": cls.IDLE, "Clearing": cls.IDLE, "Deleted": cls.IDLE}
        return others.get(str(value))


class Router(ABC):
    """One router with one configuration; its context starts it, and in the end leaves nothing."""

    NEEDS: ClassVar[tuple[Path, ...]]
    """The programs."""
    KERNEL_PROTOCOL: ClassVar[int | None]
    """The mark of its routes in the kernel (rtnetlink(7), rtm_protocol); None: it has none there."""

    def __init__(self, netns: str | Path, text: str) -> None:
        self.text = text
        """Its configuration, in its own language."""
        self.programs: NetnsPrograms
        """There while the context lasts."""
        self._netns = netns
        self._killed = False

    @classmethod
    def planned(cls, netns: str | Path, plan: RouterPlan) -> Self:
        """With the plan in its own language."""
        return cls(netns, cls.render(plan))

    @staticmethod
    @abstractmethod
    def render(plan: RouterPlan) -> str:
        """The plan in its own language."""

    @abstractmethod
    async def _run(self, *, recover: bool) -> None:
        """Start the programs with `text`, and return when they answer."""

    @abstractmethod
    async def ask(self, *command: str) -> str:
        """What it says to a command of its own, for what is not foreseen here; raises ProgramError, OSError."""

    @abstractmethod
    async def configure(self, text: str) -> None:
        """Go on with this text, and with the sessions that are the same in it; raises ProgramError, and keeps the old one."""

    @abstractmethod
    async def sessions(self) -> Mapping[IPAddress, SessionState]:
        """By neighbour."""

    @abstractmethod
    async def bfd_sessions(self) -> Mapping[IPAddress, bool]:
        """Whether each is up, by neighbour."""

    @abstractmethod
    async def routes(self) -> Mapping[IPNetwork, NextHops]:
        """What it uses of what BGP told it, and the next hops as it uses them: in IPv6 possibly a link-local address."""

    async def kernel_routes(self) -> Mapping[IPNetwork, NextHops]:
        """What it has put into the kernel's main table."""
        found: dict[IPNetwork, NextHops] = {}
        if self.KERNEL_PROTOCOL is None:
            return found
        for family, everything in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
            command = ("ip", "-json", family, "route", "show", "table", "main", "proto", str(self.KERNEL_PROTOCOL))
            for route in json.loads(await self.programs.run(*command) or "[]"):
                prefix = ip_network(everything if route["dst"] == "default" else route["dst"])
                found[prefix] = found.get(prefix, frozenset()) | _gateways(route)  # IPv6 may have a route for each next hop
        return found

    async def start(self) -> None:
        """Run, and return when it answers; as one that has restarted (RFC 4724 §4.1) if it was killed. Raises ProgramError."""
        recover, self._killed = self._killed, False
        await self._run(recover=recover)

    async def stop(self) -> None:
        """End it for good, as its neighbours hear by a NOTIFICATION; nothing happens when it has ended."""
        await self.programs.end()

    async def kill(self) -> None:
        """End it before it can say anything to its neighbours or to the kernel."""
        await self.programs.end(signal.SIGKILL)
        self._killed = True

    async def __aenter__(self) -> Self:
        self.programs = NetnsPrograms(self._netns)
        try:
            await self.start()
        except BaseException:
            await self.programs.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.programs.close()


def missing(*kinds: type[Router]) -> str:
    """Why these cannot be tried here; empty when they can."""
    absent = [str(program) for kind in kinds for program in kind.NEEDS if not os.access(program, os.X_OK)]
    return f"no {', no '.join(absent)}: ./dev test fetches Debian's" if absent else ""


async def established(router: Router, *neighbours: IPAddress, within_s: float = PATIENCE_S) -> None:
    """Return when its sessions with these are."""

    def all_up(states: Mapping[IPAddress, SessionState]) -> bool:
        return all(states.get(neighbour) is SessionState.ESTABLISHED for neighbour in neighbours)

    await eventually(router.sessions, all_up, within_s)


async def eventually(look: Callable[[], Awaitable[T]], is_so: Callable[[T], bool], within_s: float = PATIENCE_S) -> T:
    """Look until it is so, and return what was seen; raises AssertionError with what was seen last."""
    until = time.monotonic() + within_s
    while not is_so(seen := await look()):
        assert time.monotonic() < until, f"after {within_s:g} s still {seen}"
        await asyncio.sleep(0.05)
    return seen


def _gateways(route: Mapping[str, Any]) -> NextHops:
    """The next hops of one of iproute2's routes; `via` is one of the other family (RFC 8950)."""
    hops = route.get("nexthops", [route])
    texts = (hop.get("gateway") or hop.get("via", {}).get("host") for hop in hops)
    return frozenset(ip_address(text) for text in texts if text)
