"""Who has a container made, and what only he decides; must not know how it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

CONTAINER, SANDBOX, POD_CONTAINER, BUILD = "container", "sandbox", "pod-container", "build"


@dataclass(frozen=True, slots=True)
class Origin:
    """By default: a client of the Engine API."""

    kind: str = CONTAINER
    netns: str = ""
    """A network namespace that is there already, and is joined as it is."""
    log_path: str = ""
    """Where its output is to be written; "": beside its record."""
    log_format: str = ""
    """cri, none; "": json-file, or as its log driver says."""
    platform: str = ""
    """"linux/amd64": refuse an image for anything else."""
    group_rule: str = ""
    """merge, strict; "": Docker's. See `Record`."""
    note: bytes = b""
    """To be kept with the record."""


@dataclass(frozen=True, slots=True)
class Created:
    """A new container's id, and what could not be done as asked."""

    id: str
    warnings: list[str] = field(default_factory=list)
