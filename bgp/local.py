"""What was asked of this host by hand: prefixes to announce, or to let go, besides its lease's; to be drained. Survives the daemon.

A JSON file in the speaker's directory: {"draining": false, "announced": ["10.96.0.10/32"], "released": ["10.244.1.7/32"]}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

from flanneld.lease import IPNetwork
from flanneld.log import Log
from flanneld.subnet_env import replace_file

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for."""

    draining: bool = False
    announced: frozenset[IPNetwork] = frozenset()
    released: frozenset[IPNetwork] = frozenset()
    """Addresses of our own subnet whose pods have moved: another host may announce them."""


class LocalState:
    """The file, and what is in it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "asked.json"
        self.asked = _read(self._path)

    def drain(self, draining: bool) -> None:
        """From now on; raises SubnetEnvError when it cannot be written down."""
        self._write(replace(self.asked, draining=draining))

    def announce(self, prefix: IPNetwork) -> None:
        """From now on; raises SubnetEnvError when it cannot be written down."""
        self._write(replace(self.asked, announced=self.asked.announced | {prefix}))

    def withdraw(self, prefix: IPNetwork) -> None:
        """From now on not any more; raises SubnetEnvError when it cannot be written down."""
        self._write(replace(self.asked, announced=self.asked.announced - {prefix}))

    def release(self, prefix: IPNetwork, released: bool) -> None:
        """From now on, or not any more; raises SubnetEnvError when it cannot be written down."""
        before = self.asked.released
        self._write(replace(self.asked, released=before | {prefix} if released else before - {prefix}))

    def _write(self, asked: Asked) -> None:
        said = {
            "draining": asked.draining,
            "announced": sorted(map(str, asked.announced)),
            "released": sorted(map(str, asked.released)),
        }
        self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
        replace_file(self._path, json.dumps(said) + "\n")
        self.asked = asked


def _read(path: Path) -> Asked:
    """What the file says; what cannot be read is said, and nothing was asked for."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        announced, released = (frozenset(map(ip_network, said[key])) for key in ("announced", "released"))
        return Asked(bool(said["draining"]), announced, released)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("what was asked for by hand is not known", path=path, why=error)
    return Asked()
