"""Small files, written by one call each: a pod's ADD writes three, and Python's own way takes longer than the kernel's work."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, text: str, flags: int = os.O_TRUNC, mode: int = 0o644) -> None:
    """Make the file, with its directory if need be; os.O_EXCL: only if there is none. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, mode)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, mode)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
