"""BIRD 2, FRR and GoBGP as routers for tests; must not know what is asked of them.

Debian's, version 12 and later, taken out of their packages and never installed. `ROUTERS` is all kinds.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar

from flanneld.lease import FAMILIES, IPAddress, IPNetwork
from netns_programs import ANSWER_S, PROGRAMS, ProgramError
from router import NextHops, Router, SessionState, eventually
from router_configs import ORIGINATE, render_bird, render_frr, render_gobgp

FRR = PROGRAMS.parent / "lib/frr"


class Bird(Router):
    """BIRD 2, asked through its control socket: lines `NNNN-text`, or ` text` as the one before, and `NNNN text` as the last."""

    NEEDS = (PROGRAMS / "bird",)
    KERNEL_PROTOCOL = 12
    render = staticmethod(render_bird)

    @property
    def _config(self) -> Path:
        return self.programs.directory / "bird.conf"

    @property
    def _socket(self) -> Path:
        return self.programs.directory / "control"

    async def _run(self, *, recover: bool) -> None:
        self._config.write_text(self.text)
        self._socket.unlink(missing_ok=True)
        await self.programs.start(PROGRAMS / "bird", "-f", "-c", self._config, "-s", self._socket, *["-R"] * recover)
        await self.programs.await_answer(lambda: self.ask("show status"))

    async def ask(self, *command: str) -> str:
        async with asyncio.timeout(ANSWER_S):
            lines = await self._lines(" ".join(command))
        if lines[-1][0] in "89":  # an error while it worked, an error in the command
            raise ProgramError(f"bird: {' '.join(command)}: {lines[-1].strip()}")
        return "".join(re.sub(r"^(\d{4}[- ]| )", "", line) for line in lines)

    async def _lines(self, command: str) -> list[str]:
        """The answer, with its numbers."""
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            await reader.readline()  # the greeting
            writer.write(f"{command}\n".encode())
            lines: list[str] = []
            while not lines or not re.match(r"\d{4} ", lines[-1]):
                line = (await reader.readline()).decode()
                if not line:
                    raise ProgramError(f"bird: no more after {lines}")
                lines.append(line)
            return lines
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def configure(self, text: str) -> None:
        self._config.write_text(text)
        await self.ask("configure")
        self.text = text

    async def sessions(self) -> Mapping[IPAddress, SessionState]:
        told = await self.ask("show protocols all")
        found = re.findall(r"BGP state: +(\S+)\n *Neighbor address: (\S+)", told)
        return {ip_address(neighbour): SessionState(state) for state, neighbour in found}

    async def bfd_sessions(self) -> Mapping[IPAddress, bool]:
        rows = re.findall(r"^([\da-f.:]+) +\S+ +(\S+)", await self.ask("show bfd sessions"), re.MULTILINE)
        return {ip_address(neighbour): state == "Up" for neighbour, state in rows}

    async def routes(self) -> Mapping[IPNetwork, NextHops]:
        found: dict[IPNetwork, NextHops] = {}
        for family in FAMILIES:
            for line in (await self.ask(f"show route export kernel{family}")).splitlines():
                if start := re.match(r"[\da-f.:]+/\d+", line):
                    prefix = ip_network(start[0])
                    found[prefix] = frozenset()
                elif hop := re.match(r"\tvia (\S+)", line):
                    found[prefix] |= {ip_address(hop[1])}
        return found


class Frr(Router):
    """FRR: zebra, staticd, bfdd and bgpd (and mgmtd, which others need since FRR 9), each asked through vtysh.

    They want an account `frr`, settings in /etc/frr, sockets in /run/frr and room in /var. So each runs in a mount namespace of its
    own, in which /etc, /run and /var are directories of this router's, and where the account `frr` is root by another name.
    """

    DAEMONS = ("mgmtd", "zebra", "staticd", "bfdd", "bgpd")
    NEEDS = tuple(FRR / name for name in (*DAEMONS[1:], "vtysh", "frr-reload.py"))
    KERNEL_PROTOCOL = 186
    render = staticmethod(render_frr)
    _ENCLOSE = 'for place in etc run var; do mount --bind "$0/$place" "/$place"; done; exec "$@"'
    _FILES: ClassVar[Mapping[str, str]] = {
        "etc/passwd": "root:x:0:0::/:/bin/sh\nfrr:x:0:0::/:/bin/sh\n",
        "etc/group": "root:x:0:\nfrr:x:0:\nfrrvty:x:0:frr\n",
        "etc/pam.d/frr": "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n",
        "etc/frr/vtysh.conf": "service integrated-vtysh-config\n",
    }

    @property
    def _config(self) -> Path:
        return self.programs.directory / "etc/frr/frr.conf"

    async def _run(self, *, recover: bool) -> None:
        self._furnish()
        self._config.write_text(self.text)
        grace = re.search(r"bgp graceful-restart restart-time (\d+)", self.text)
        options = {"zebra": ["-K", grace[1]] if grace and recover else []}
        for name in self.DAEMONS:
            if (FRR / name).exists():
                await self.programs.start(FRR / name, "-P", "0", "--log", "stdout", *options.get(name, ()))
                await self.programs.await_answer(partial(self._vtysh, "-d", name, "-c", "show version"))
        await self._vtysh("-b")

    async def stop(self) -> None:
        self.programs.send_signal(signal.SIGCONT)  # one that is stopped would not answer
        if asn := re.search(r"^router bgp (\d+)", self.text, re.MULTILINE):
            with suppress(ProgramError):  # it has ended
                # With graceful restart bgpd only goes away when it is told to end, for it might come back.
                await self.ask("configure terminal", f"router bgp {asn[1]}", "bgp shutdown")
        await super().stop()

    def _furnish(self) -> None:
        """Make the three directories as Debian's package would have them, but without what an earlier run left."""
        top = self.programs.directory
        for path, text in self._FILES.items():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_text(text)
        for path in ("run/frr", "var/lib/frr", "var/log/frr", "var/tmp"):
            (top / path).mkdir(parents=True, exist_ok=True)
        for left in (top / "run/frr").iterdir():
            left.unlink()
        with suppress(FileExistsError):
            (top / "var/run").symlink_to("/run")
        self.programs.enclosure = ("unshare", "--mount", "sh", "-ec", self._ENCLOSE, str(top))
        self.programs.environment["LD_LIBRARY_PATH"] = str(FRR)

    async def _vtysh(self, *arguments: str) -> str:
        return await self.programs.run(FRR / "vtysh", *arguments)

    async def ask(self, *command: str) -> str:
        """Of several arguments each is a command, as in `ask("configure", "router bgp 64512", ..)`."""
        return await self._vtysh(*(word for one in command for word in ("-c", one)))

    async def _told(self, command: str) -> Any:
        return json.loads(await self.ask(f"{command} json"))

    async def configure(self, text: str) -> None:
        draft = self._config.with_name("draft")
        draft.write_text(text)
        reload = (PROGRAMS / "python", FRR / "frr-reload.py", "--reload", "--stdout", "--bindir", FRR)
        whole = (*reload, "--confdir", "/etc/frr", "--rundir", "/run/frr", "/etc/frr/draft")
        try:
            await self.programs.run(*whole)
        except ProgramError:
            # It says all of it twice, and bgpd refuses a neighbour's graceful restart as it is already. A second run says the rest.
            await self.programs.run(*whole)
        draft.rename(self._config)
        self.text = text

    async def sessions(self) -> Mapping[IPAddress, SessionState]:
        told = await self._told("show bgp neighbors")
        return {ip_address(name): SessionState(peer["bgpState"]) for name, peer in told.items() if "bgpState" in peer}

    async def bfd_sessions(self) -> Mapping[IPAddress, bool]:
        return {ip_address(peer["peer"]): peer["status"] == "up" for peer in await self._told("show bfd peers")}

    async def routes(self) -> Mapping[IPNetwork, NextHops]:
        found = {}
        for family in FAMILIES:
            told = await self._told(f"show bgp ipv{family} unicast")
            for prefix, paths in told.get("routes", {}).items():
                chosen = [path for path in paths if path.get("bestpath") or path.get("multipath")]
                if chosen and chosen[0]["peerId"] != "(unspec)":  # which is itself
                    hops = (hop for path in chosen for hop in path["nexthops"] if hop.get("used"))
                    found[ip_network(prefix)] = frozenset(ip_address(hop["ip"]) for hop in hops)
        return found


class GoBgp(Router):
    """GoBGP 3, which has no BFD and leaves the kernel alone."""

    NEEDS = (PROGRAMS / "gobgpd", PROGRAMS / "gobgp")
    KERNEL_PROTOCOL = None
    render = staticmethod(render_gobgp)

    @property
    def _config(self) -> Path:
        return self.programs.directory / "gobgpd.toml"

    @property
    def _api(self) -> str:
        return f"unix://{self.programs.directory}/api"

    async def _run(self, *, recover: bool) -> None:
        self._config.write_text(self.text)
        (self.programs.directory / "api").unlink(missing_ok=True)
        options = ("--api-hosts", self._api, "--pprof-disable", "--log-plain", *["--graceful-restart"] * recover)
        await self.programs.start(PROGRAMS / "gobgpd", "-f", self._config, *options)
        await self.programs.await_answer(lambda: self.ask("global"))
        for route in _own(self.text):
            await self._tell("add", route)

    async def ask(self, *command: str) -> str:
        return await self.programs.run(PROGRAMS / "gobgp", "--target", self._api, *command)

    async def configure(self, text: str) -> None:
        draft = self._config.with_name("draft.toml")
        draft.write_text(text)
        await self.programs.run(PROGRAMS / "gobgpd", "-f", draft, "--dry-run")
        draft.rename(self._config)
        self.programs.send_signal(signal.SIGHUP)
        for verb, prefixes in (("del", _own(self.text) - _own(text)), ("add", _own(text) - _own(self.text))):
            for prefix in prefixes:
                await self._tell(verb, prefix)
        wanted = {ip_address(neighbour["config"]["neighbor-address"]) for neighbour in tomllib.loads(text).get("neighbors", [])}
        await eventually(self.sessions, lambda states: states.keys() == wanted)
        self.text = text

    async def _tell(self, verb: str, route: str) -> None:
        family = ip_network(route.split()[0]).version
        await self.ask("global", "rib", verb, "-a", f"ipv{family}", *route.split())

    async def sessions(self) -> Mapping[IPAddress, SessionState]:
        states = (SessionState.IDLE, *SessionState)  # its numbers begin at 1, with 0 for one that it does not know yet
        told = json.loads(await self.ask("-j", "neighbor"))
        return {ip_address(peer["conf"]["neighbor_address"]): states[peer["state"].get("session_state", 0)] for peer in told}

    async def bfd_sessions(self) -> Mapping[IPAddress, bool]:
        return {}

    async def routes(self) -> Mapping[IPNetwork, NextHops]:
        """Only the best path of each."""
        found = {}
        for family in FAMILIES:
            told = json.loads(await self.ask("-j", "global", "rib", "-a", f"ipv{family}"))
            for prefix, paths in told.items():
                for path in paths:
                    if path.get("best") and "neighbor-ip" in path:  # which its own have not
                        hops = (ip_address(attribute["nexthop"]) for attribute in path["attrs"] if "nexthop" in attribute)
                        found[ip_network(prefix)] = frozenset(hops)
        return found


def _own(text: str) -> set[str]:
    return {line.removeprefix(ORIGINATE) for line in text.splitlines() if line.startswith(ORIGINATE)}


ROUTERS: tuple[type[Router], ...] = (Bird, Frr, GoBgp)
