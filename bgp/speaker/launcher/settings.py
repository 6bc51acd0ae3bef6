"""What exabgp's process is told: on its command line by us, and in its environment by itself, for exabgp."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from flanneld.lease import IPAddress

EXABGP = {
    "EXABGP_ENVFILE": "/dev/null",  # the file that an administrator keeps for another exabgp is none of ours
    "exabgp_api_ack": "true",  # every command is answered: answers are counted to find whose they are
    "exabgp_api_cli": "false",  # no named pipes, no second way in
    "exabgp_api_respawn": "true",  # a relay that was killed is started again, and no session notices
    "exabgp_bgp_openwait": "10",  # s; one that was cut off in between is tried anew after that, not after a minute
    "exabgp_daemon_user": "root",  # for who has asked to stay root; anybody else has become so before exabgp runs
    "exabgp_log_destination": "stderr",
    "exabgp_log_level": "WARNING",  # INFO has a line for each route and for each keepalive
    "exabgp_log_short": "false",  # with the time
    # So many times 10 ms does the loop wait at most. Each turn visits every peer: at 1, the default, 100 idle peers take 14 % of a
    # core, at 10 they take 2 %. Whatever arrives ends the wait (`turns`); only connections being made are looked at in each turn.
    "exabgp_reactor_speed": "10",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """One speaker."""

    directory: Path
    """Where its socket and its log are; nobody but its owner need be able to enter it."""
    listen: tuple[IPAddress, ...]
    """On these addresses of ours; none: every session is opened by us."""
    port: int
    """To listen on."""
    user: str
    """Who it becomes; empty: it stays who it is, which it does too where it is not started by root."""
    orphan_s: float
    name: str
    """Tells these settings, and this program, from others."""

    @property
    def socket(self) -> Path:
        return self.directory / "relay.sock"

    @property
    def log(self) -> Path:
        return self.directory / "exabgp.log"

    def arguments(self) -> list[str]:
        """The command line that `parse` reads."""
        listen = [f"--listen={address}" for address in self.listen]
        whole = {"directory": self.directory, "port": self.port, "user": self.user, "orphan-s": self.orphan_s, "name": self.name}
        return [*(f"--{key}={value}" for key, value in whole.items()), *listen]

    def environment(self) -> dict[str, str]:
        """What exabgp reads in its environment: it closes whatever listens on what is not named there."""
        return EXABGP | {"exabgp_tcp_bind": " ".join(map(str, self.listen)), "exabgp_tcp_port": str(self.port)}


def parse(arguments: Sequence[str]) -> Settings:
    """Read a command line; exits with a usage message when it is none."""
    parser = argparse.ArgumentParser(prog="bgp.speaker.launcher", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--listen", type=ip_address, action="append", default=[])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", default="")
    parser.add_argument("--orphan-s", type=float, required=True)
    parser.add_argument("--name", required=True)
    read = parser.parse_args(arguments)
    return Settings(read.directory, tuple(read.listen), read.port, read.user, read.orphan_s, read.name)
