"""The docker client that tests drive: the machine's own, else Debian's, which is too old for most of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

DOCKER = shutil.which("docker") or str(Path(sys.executable).parent.parent / "lib/docker/docker")
OLDEST = 25
"""Speaks API 1.44: several networks at once, annotations, and the words that are compared."""


@lru_cache(maxsize=1)
def _major() -> int:
    told = subprocess.run([DOCKER, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.", told)
    return int(found[1]) if found else 0


def require_docker() -> None:
    """Skip, saying why, where there is no client of today."""
    if _major() < OLDEST:
        pytest.skip(f"{DOCKER} is version {_major()}, and what is tested wants {OLDEST} or later on PATH")
