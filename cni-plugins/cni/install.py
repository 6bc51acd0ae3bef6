"""Puts the executables into a directory: one small program under every plugin's name, and the stand-in beside it.

Each file appears by rename, so that a runtime never finds one half written, nor one that is open for writing (ETXTBSY).
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

from cni.plugin import PLUGINS
from flanneld import FlanneldError

SOURCE = Path(__file__).with_name("client") / "tartan-cni.c"
FLANNEL_CONFLIST = Path(__file__).with_name("conf") / "10-flannel.conflist"
"""kube-flannel's network configuration."""
CLIENT, FALLBACK = "tartan-cni", "tartan-cni-fallback"
COMPILERS = (("musl-gcc",), ("cc",), ("gcc",))
"""First choice first: with musl the program starts in half the time."""
FLAGS = ("-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror")
ZIG_TARGETS = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "armv7l": "arm-linux-musleabihf",
    "riscv64": "riscv64-linux-musl",
}
"""`platform.machine()` -> what `zig cc` calls it: what a wheel carries."""


class InstallError(FlanneldError):
    """The executables cannot be put there."""


def install(directory: Path) -> list[Path]:
    """Install all plugins, over what has their names there; returns the files. Again: nothing changes. Raises InstallError."""
    client = built_client()
    fallback = f"#!{sys.executable} -I\nimport sys\n\nfrom cni.__main__ import main\n\nsys.exit(main())\n"
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        _place(directory / FALLBACK, fallback.encode())
        _place(directory / CLIENT, client.read_bytes())
        links = [directory / name for name in sorted(PLUGINS)]
        for link in links:
            _link(link)
    except OSError as error:
        raise InstallError(f"cannot install into {directory}: {os.strerror(error.errno or 0).lower()}") from error
    return [directory / CLIENT, directory / FALLBACK, *links]


def built_client() -> Path:
    """The client for this machine: the one that came with the package, else compiled here and kept. Raises InstallError."""
    client = SOURCE.parent / platform.machine() / CLIENT
    if not client.exists() or client.stat().st_mtime < SOURCE.stat().st_mtime:
        compile_client(client, *(compiler for compiler in COMPILERS if shutil.which(compiler[0])))
    return client


def cross_compile() -> None:
    """Compile the client for every platform that a wheel can bring it to; needs the package ziglang. Raises InstallError."""
    for machine, target in ZIG_TARGETS.items():
        compile_client(SOURCE.parent / machine / CLIENT, (sys.executable, "-m", "ziglang", "cc", "-target", target))


def compile_client(client: Path, *compilers: Iterable[str]) -> None:
    """Compile the client with the first of these that can; raises InstallError."""
    reasons = []
    try:
        client.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstallError(f"cannot compile into {client.parent}: {os.strerror(error.errno or 0).lower()}") from error
    for compiler in compilers:
        with tempfile.TemporaryDirectory(dir=client.parent) as scratch:
            made = Path(scratch) / CLIENT
            ended = subprocess.run([*compiler, *FLAGS, "-o", made, SOURCE], capture_output=True, text=True, check=False)
            if ended.returncode == 0:
                os.replace(made, client)
                return
            reasons.append(ended.stderr.strip())
    why = "; ".join(reasons) or "there is no C compiler, expected musl-gcc, cc or gcc"
    raise InstallError(f"the CNI client {client} cannot be compiled: {why}")


def _place(path: Path, content: bytes) -> None:
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content and os.access(path, os.X_OK):
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(handle, 0o755)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _link(path: Path) -> None:
    if path.is_symlink() and os.readlink(path) == CLIENT:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(CLIENT)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink()
        raise
