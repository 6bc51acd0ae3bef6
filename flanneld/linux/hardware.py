"""What an interface is made of, as sysfs has it; must not know why that matters."""

from __future__ import annotations

import os
from pathlib import Path


def driver_of(name: str) -> str:
    """The interface's driver; "" for one that is software, or that cannot be seen from here."""
    try:
        return Path(os.readlink(f"/sys/class/net/{name}/device/driver")).name
    except OSError:
        return ""
