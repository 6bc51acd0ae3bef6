"""How much an archive may make of itself before it counts as an attack; must not know how archives are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runtime.errors import InvalidParameter


class BadArchive(InvalidParameter):
    """It is no archive, or one that no honest tool writes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """For one layer, or one archive of any other kind."""

    bytes: int = 100 << 30
    """Unpacked; more than any image anybody has asked for."""
    ratio: int = 250
    """How many times its size a layer may grow. Programs grow 2 to 4 times, logs 20; gzip ends at 1,032, zstd far above."""
    ratio_from: int = 2 << 30
    """Bytes up to which the ratio does not matter: an empty disk image is honest, and this much of it fits."""
    entries: int = 10_000_000
    """Files, links, directories."""


def limited(chunks: Iterator[bytes], taken: Callable[[], int], limits: Limits) -> Iterator[bytes]:
    """The same chunks until there are too many; `taken()` says how many bytes they were made of. Raises BadArchive."""
    made = 0
    for chunk in chunks:
        made += len(chunk)
        if made > limits.bytes:
            raise BadArchive(f"the layer has more than {limits.bytes} bytes")
        if made > limits.ratio_from and made > limits.ratio * taken():
            raise BadArchive(f"the layer is more than {limits.ratio} times as large as its archive")
        yield chunk


def shown(name: bytes) -> str:
    """A name from an archive, as an error may show it."""
    return repr(name[:100].decode(errors="backslashreplace"))
