"""How a container's output is kept, by `--log-driver` and `--log-opt`; must not know who writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.config import LogConfig
from runtime.errors import InvalidParameter

DRIVERS = ("json-file", "local", "none")
"""local is kept as json-file is: what a client sees of both is the same."""
_SIZE = re.compile(r"([0-9]{1,18})\s?([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_KNOWN = frozenset(
    {"max-size", "max-file", "compress", "mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag"}
)


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a log is begun anew, and how many files of it there are in all."""

    max_bytes: int
    """0: never."""
    max_files: int


def rotation(config: LogConfig, default: Rotation) -> Rotation:
    """What the options say, on top of the engine's; raises InvalidParameter in Docker's words."""
    if config.type and config.type not in DRIVERS:
        raise InvalidParameter(f'error looking up logging plugin {config.type}: plugin "{config.type}" not found')
    options = config.config
    for name in options:
        if name not in _KNOWN:
            raise InvalidParameter(f"unknown log opt '{name}' for {config.type or DRIVERS[0]} log driver")
    size, count = options.get("max-size", ""), options.get("max-file", "")
    max_bytes = default.max_bytes if not size else (0 if size == "-1" else _bytes(size))
    if not count:
        return Rotation(max_bytes, default.max_files)
    if not count.isascii() or not count.isdigit() or not 1 <= int(count[:9]) <= 10_000:
        raise InvalidParameter(f"max-file cannot be less than 1 nor anything but a number: {count}")
    return Rotation(max_bytes, int(count))


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise InvalidParameter(f"invalid max-size: invalid size: '{text}'")
    return int(match[1]) * _UNITS[match[2].lower()]
