"""bgp: pod subnets are announced to, and learned from, other hosts and routers; packets go as they are, without encapsulation.

    sessions   `neighbours` says which there are, from the config and everybody's leases; `router` has exabgp keep them
    routes     `router`'s RIB says where prefixes are; here they become entries of the kernel, as every backend's do

Leases say who is there and which subnet is whose; where it can be reached is BGP's to say, also while the store is away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Self

from bgp.config import KEYS, BgpConfig, parse
from bgp.network import BgpNetwork
from bgp.speaker.news import SpeakerError
from bgp.speaker.speaker import Speaker
from flanneld.backend import BackendError, Identity, Network, Uplink, require_own_address
from flanneld.config import NetworkConfig
from flanneld.kernel import Kernel

BACKEND_TYPE = "bgp"


@dataclass(frozen=True, slots=True)
class BgpBackend:
    """The method, configured."""

    config: BgpConfig
    identity: Identity = field(default_factory=Identity)
    KEYS: ClassVar[frozenset[str]] = KEYS
    in_user_space: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        return cls(parse(config))

    def on_host(self, identity: Identity) -> Self:
        return type(self)(self.config, identity)

    def devices(self, network: NetworkConfig) -> tuple[str, ...]:
        """None."""
        return ()

    @asynccontextmanager
    async def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AsyncIterator[Network]:
        """Nothing is opened before the network runs: it can be attached to see what it would want, beside one that runs."""
        require_own_address(uplink, BACKEND_TYPE)
        listen = tuple(address.ip for address in uplink.addresses)
        try:
            speaker = Speaker(self.identity.directory / "bgp", listen, self.config.port)
        except SpeakerError as error:
            raise BackendError(f"bgp: {error}") from error
        yield BgpNetwork(self.config, self.identity, uplink, network, kernel, speaker)
