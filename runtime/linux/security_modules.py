"""Which security modules the kernel has on; must not know what is confined by them."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def apparmor_enabled() -> bool:
    """Whether processes can be given AppArmor profiles."""
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    except OSError:
        return False
