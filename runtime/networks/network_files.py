"""Networks as files, one each, that are there whole or not at all; must not know what is in them.

networks/ID.json    users' bridges, and the predefined ones, whose ids are to last
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from flanneld.log import Log
from runtime.networks.network import Network

log = Log(__name__)


class NetworkFiles:
    """The directory. Everything blocks, and raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, network: Network) -> None:
        """Keep a network: it is on the disk when this returns."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._file(network).with_suffix(".draft")
        with draft.open("wb") as stream:
            stream.write(msgspec.json.encode(network))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self._file(network))

    def remove(self, network: Network) -> None:
        """Forget a network; nothing happens when it is not known."""
        self._file(network).unlink(missing_ok=True)

    def read_all(self) -> Iterator[Network]:
        """Those that are kept; a file that makes no sense is logged and left."""
        for file in sorted(self._directory.glob("*.json")) if self._directory.is_dir() else ():
            try:
                yield msgspec.json.decode(file.read_bytes(), type=Network)
            except (OSError, msgspec.DecodeError) as error:
                log.warning("network not read", file=file, why=error)

    def _file(self, network: Network) -> Path:
        return self._directory / f"{network.id}.json"
