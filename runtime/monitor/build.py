"""Finds or compiles the monitor's executable; must not know what it does.

It comes compiled with a wheel; from a checkout it is compiled once, beside its source, and again when the source is newer.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from runtime.errors import EngineError

HERE = Path(__file__).parent
SOURCES = (HERE / "monitor.c", HERE / "log.c", HERE / "init.c")
HEADERS = (HERE / "log.h", HERE / "init.h")
PROGRAM = "tartan-monitor"
COMPILERS = (("musl-gcc",), ("cc",), ("gcc",))
"""First choice first: with musl a monitor has a fifth of the resident memory."""
FLAGS = ("-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror")
ZIG_TARGETS = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "armv7l": "arm-linux-musleabihf",
    "riscv64": "riscv64-linux-musl",
}
"""`platform.machine()` -> what `zig cc` calls it: what a wheel carries."""


def built_monitor() -> Path:
    """The monitor for this machine: the one that came with the package, else compiled here and kept. Raises EngineError."""
    program = HERE / platform.machine() / PROGRAM
    newest = max(source.stat().st_mtime for source in (*SOURCES, *HEADERS))
    if not program.exists() or program.stat().st_mtime < newest:
        compile_monitor(program, *(compiler for compiler in COMPILERS if shutil.which(compiler[0])))
    return program


def cross_compile() -> None:
    """Compile the monitor for every platform that a wheel can bring it to; needs the package ziglang. Raises EngineError."""
    for machine, target in ZIG_TARGETS.items():
        compile_monitor(HERE / machine / PROGRAM, (sys.executable, "-m", "ziglang", "cc", "-target", target))


def compile_monitor(program: Path, *compilers: Iterable[str]) -> None:
    """Compile the monitor with the first of these that can; raises EngineError."""
    reasons = []
    try:
        program.parent.mkdir(exist_ok=True)
        for compiler in compilers:
            with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
                made = Path(scratch) / PROGRAM
                ended = subprocess.run([*compiler, *FLAGS, "-o", made, *SOURCES], capture_output=True, text=True, check=False)
                if ended.returncode == 0:
                    os.replace(made, program)
                    return
                reasons.append(ended.stderr.strip())
    except OSError as error:
        raise EngineError(f"cannot compile into {program.parent}: {os.strerror(error.errno or 0).lower()}") from error
    why = "; ".join(reasons) or "there is no C compiler, expected musl-gcc, cc or gcc"
    raise EngineError(f"the monitor {program} cannot be compiled: {why}")
