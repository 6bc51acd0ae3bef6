"""Where a registry is found and how far it is trusted: addresses, mirrors, plain HTTP, certificates; must not know HTTP.

An insecure registry is tried with TLS first, unverified, then without, as Docker does.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from runtime.errors import InvalidParameter
from runtime.images.reference import HUB


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a registry."""

    url: str
    """"https://registry.example:5000", without a slash at its end."""
    is_verified: bool = True
    """Whether its certificate must be right."""
    may_be_plain: bool = False
    """Whether it may send us on to plain HTTP, and our secrets with us."""
    is_mirror: bool = False
    """Somebody's copy: whatever goes wrong with it, the registry itself is asked; credentials are not for it."""

    @property
    def host(self) -> str:
        """Host and port, as users write them."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How registries are reached."""

    mirrors: tuple[str, ...] = ()
    """URLs tried before Docker Hub, when pulling."""
    insecure: tuple[str, ...] = ()
    """host[:port] or CIDR of registries that may have any certificate or none; loopback always may."""
    certificates: Path = Path("/etc/docker/certs.d")
    """HOST[:PORT]/*.crt: authorities to trust for it besides the system's; NAME.cert with NAME.key: ours towards it."""
    hub: str = "https://registry-1.docker.io"
    """Where the images of Docker Hub are."""
    index: str = "https://index.docker.io"
    """Where Docker Hub is searched."""

    def endpoints(self, host: str, *, for_pull: bool) -> tuple[Endpoint, ...]:
        """Where to try, in this order."""
        if host != HUB:
            return self._registry(host)
        mirrors = tuple(self._mirror(url) for url in self.mirrors) if for_pull else ()
        return (*mirrors, self._given(self.hub))

    def _registry(self, host: str) -> tuple[Endpoint, ...]:
        if not self.is_insecure(host):
            return (Endpoint(f"https://{host}"),)
        return tuple(Endpoint(f"{scheme}://{host}", is_verified=False, may_be_plain=True) for scheme in ("https", "http"))

    def _given(self, url: str) -> Endpoint:
        return Endpoint(url.rstrip("/"), may_be_plain=url.startswith("http://"))

    def _mirror(self, url: str) -> Endpoint:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
            raise InvalidParameter(f"invalid mirror {url!r}, expected http[s]://host[:port][/path]")
        insecure = self.is_insecure(parts.netloc)
        return Endpoint(url.rstrip("/"), not insecure, may_be_plain=insecure or parts.scheme == "http", is_mirror=True)

    def is_insecure(self, host: str) -> bool:
        """Whether a host[:port] may be spoken to without a certificate that we trust."""
        name = urlsplit(f"//{host}").hostname or ""
        if is_loopback(name) or host in self.insecure or name in self.insecure:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return any(address in network for network in map(_network, self.insecure) if network is not None)


def is_loopback(name: str) -> bool:
    """Whether a host's name or address is this machine by its look."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
