"""The script of developers and newcomers: what it says when it does nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

DEV = Path(__file__).parents[2] / "dev"


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DEV, *arguments], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(("arguments", "said"), [([], ""), (["tset"], "dev: no command tset\n")])
def test_a_command_that_is_none_is_named_after_the_usage(arguments: list[str], said: str) -> None:
    ended = dev(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: ./dev COMMAND\n  demo")
    assert ended.stderr.endswith(f"(root)\n  lock          renew requirements/*.lock from pyproject.toml\n{said}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run benchmarks")
def test_a_benchmark_that_is_none_is_named() -> None:
    ended = dev("bench", "../datapath")
    assert (ended.returncode, ended.stderr) == (1, "dev: no benchmark '../datapath': sudo ./dev bench lists them\n")
