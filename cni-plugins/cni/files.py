"""Small files, written by one call each: a pod's ADD writes three, and Python's own way takes longer than the kernel's work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Of a file that cannot be where it is looked for."""


def write_file(path: str | Path, text: str, flags: int = os.O_TRUNC, mode: int = 0o644) -> None:
    """Make the file, with its directory if need be; os.O_EXCL: only if there is none. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, mode)
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, mode)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def read_file(path: str | Path) -> bytes | None:
    """What is in the file; None when there is none, nor can be any of that name. Raises OSError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
    return None


def file_names(directory: str | Path) -> list[str]:
    """What is in the directory; nothing when there is none, nor can be any of that name. Raises OSError."""
    try:
        return os.listdir(directory)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
    return []


def remove_file(path: str | Path) -> None:
    """Take the file away; nothing happens when there is none, nor can be any of that name. Raises OSError."""
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
