"""The network config (flannel's JSON under `<prefix>/config`) as values, each default and each rule; must not know where it came from.

Keys match without regard to case, as Go's JSON does; unknown keys are returned as warnings, wrong values raise ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flanneld import FlanneldError
from flanneld.lease import Family, Pool

DEFAULT_BACKEND = "vxlan"
"""As flannel's documentation says; its code says udp."""


class ConfigError(FlanneldError):
    """A setting has a value it cannot have. `key` names it as the user wrote it."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key
        self.why = why


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One pod network, checked."""

    pools: tuple[Pool, ...]
    """One per enabled family, IPv4 first."""
    backend_type: str = DEFAULT_BACKEND
    """Lower case."""
    backend: Mapping[str, object] = None  # type: ignore[assignment]  # replaced when parse_network is written
    enable_nftables: bool = False
    warnings: tuple[str, ...] = ()

    def pool(self, family: Family) -> Pool | None:
        return next((pool for pool in self.pools if pool.family == family), None)


def parse_network(text: str) -> NetworkConfig:
    """Read flannel's network config JSON; raises ConfigError with flannel's words for each rule broken."""
    raise NotImplementedError
