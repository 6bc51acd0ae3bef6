"""What the BFD process is told on its command line, and how it is found; must not know sessions."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bgp import bounded_log, detached, process
from bgp.process import Program

MODULE = "bgp.bfd"


@dataclass(frozen=True, slots=True)
class Settings:
    """One BFD process."""

    directory: Path
    """Where its socket and its log are; nobody but its owner need be able to enter it."""
    user: str
    """Who it becomes; empty: it stays who it is, which it does too where it is not started by root."""
    orphan_s: float
    """Without a client for so long it ends all sessions, and itself."""
    name: str = ""
    """Tells these settings, and this program, from others."""

    @property
    def socket(self) -> Path:
        return self.directory / "bfd.sock"

    @property
    def log(self) -> Path:
        return self.directory / "bfd.log"

    @property
    def program(self) -> Program:
        """What runs by these settings."""
        whole = {"directory": self.directory, "user": self.user, "orphan-s": self.orphan_s, "name": self.name}
        arguments = tuple(f"--{key}={value}" for key, value in whole.items())
        return Program("the bfd process", MODULE, self.directory, self.socket, arguments)


def settings_for(directory: Path, user: str | None, orphan_s: float) -> Settings:
    """Name the settings; raises ProcessError when there is no user to become."""
    settings = Settings(directory, process.user_to_become(user, "the bfd process"), orphan_s)
    files = [
        *sorted(Path(__file__).parent.glob("*.py")),
        *(Path(str(module.__file__)) for module in (bounded_log, detached, process)),
    ]
    parts = [repr(settings).encode(), sys.version.encode(), *(file.read_bytes() for file in files)]
    return replace(settings, name=hashlib.sha256(b"\0".join(parts)).hexdigest()[:32])


def parse(arguments: Sequence[str]) -> Settings:
    """Read a command line; exits with a usage message when it is none."""
    parser = argparse.ArgumentParser(prog=MODULE, description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--user", default="")
    parser.add_argument("--orphan-s", type=float, required=True)
    parser.add_argument("--name", required=True)
    read = parser.parse_args(arguments)
    return Settings(read.directory, read.user, read.orphan_s, read.name)
