"""A network namespace that lasts as long as a test."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanneld.linux import netns


@dataclass(frozen=True)
class ScratchNetns:
    name: str

    @property
    def path(self) -> Path:
        return Path("/run/netns", self.name)

    def ip(self, line: str) -> None:
        """Change something with iproute2, as a stranger would."""
        subprocess.run(["ip", "-n", self.name, *line.split()], check=True)

    def read(self, line: str) -> list[dict[str, Any]]:
        """What `ip` or `bridge` says: our second opinion."""
        program, *arguments = line.split()
        command = [program, "-n", self.name, "-j", "-d", *arguments]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout or "[]")  # type: ignore[no-any-return]


@contextmanager
def scratch_netns() -> Iterator[ScratchNetns]:
    scratch = ScratchNetns(f"scratch-{uuid.uuid4().hex[:8]}")
    scratch.path.parent.mkdir(exist_ok=True)
    netns.create(scratch.path)
    try:
        yield scratch
    finally:
        netns.delete(scratch.path)
