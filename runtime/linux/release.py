"""Which Linux this is; must not know who needs one so new."""

from __future__ import annotations

import os
import re
from functools import cache

_VERSION = re.compile(r"([0-9]+)\.([0-9]+)")


@cache
def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    return parse_version(os.uname().release) or (0, 0)


def parse_version(text: str) -> tuple[int, int] | None:
    """The numbers a release begins with; None: none."""
    match = _VERSION.match(text)
    return (int(match[1]), int(match[2])) if match else None
