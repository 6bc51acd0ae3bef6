"""What a client asks of a build, besides its context; must not know how the query of the Engine API spells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.config import ContainerConfig, HostConfig
from runtime.images.reference import Reference
from runtime.images.registry.auth import Credentials


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """One build."""

    tags: tuple[Reference, ...] = ()
    dockerfile: str = "Dockerfile"
    """Its path in the context."""
    target: str = ""
    """Name or number of the stage to end with; "": the last."""
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    """--build-arg; None: named without a value, which is as if it were not there."""
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    """Ask registries for newer base images."""
    remove: bool = True
    """Remove the containers of RUN that succeeded (--rm)."""
    force_remove: bool = False
    """And those that failed."""
    quiet: bool = False
    """Say the image's id alone, unless it fails."""
    platform: str = ""
    host: HostConfig = field(default_factory=HostConfig)
    """Network mode, extra hosts and limits of RUN's containers."""
    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    """By registry, for base images."""


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """What a client asks of an image made of a container."""

    config: ContainerConfig
    """The image's, as it is to be."""
    reference: Reference | None = None
    comment: str = ""
    author: str = ""
    pause: bool = True
    """Hold the container still while its files are read."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What builds have forgotten."""

    caches: tuple[str, ...] = ()
    bytes: int = 0
