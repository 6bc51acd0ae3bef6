"""What of the engine the API uses: the contract that `engine.py` fulfils; must not know HTTP.

The parts' own types are named for type checkers alone: the API starts nothing and imports no part at run time for this.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from runtime.build.builder import Builder
    from runtime.containers.execs import Execs
    from runtime.containers.store import Containers
    from runtime.events import Events
    from runtime.images.registry import Registries
    from runtime.images.store import Images
    from runtime.networks.store import Networks
    from runtime.settings import Settings
    from runtime.volumes import Volumes


class Backend(Protocol):
    """The engine."""

    @property
    def settings(self) -> Settings: ...
    @property
    def images(self) -> Images: ...
    @property
    def registries(self) -> Registries: ...
    @property
    def containers(self) -> Containers: ...
    @property
    def execs(self) -> Execs: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def volumes(self) -> Volumes: ...
    @property
    def events(self) -> Events: ...
    @property
    def builder(self) -> Builder: ...

    def info(self) -> dict[str, Any]:
        """What the engine alone knows of /info, by its keys: ID, Runtimes, Warnings; the API adds the host and the counts."""
        ...


@lru_cache(maxsize=1)
def engine_version() -> str:
    """Ours, as installed."""
    return version("tartan")
