"""Networks as values: what is asked for, what is remembered, and what a container got of them; must not know how any is made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias

import msgspec

from runtime.clock import NEVER
from runtime.config import EndpointSettings, PortBinding, Value
from runtime.errors import InvalidParameter

IPNetwork: TypeAlias = IPv4Network | IPv6Network
Published: TypeAlias = dict[str, tuple[PortBinding, ...]]
"""A container's port ("80/tcp") -> where on the host it is reached."""

BRIDGE, HOST, NONE = "bridge", "host", "none"
PREDEFINED = (BRIDGE, HOST, NONE)
DEFAULT = "default"
"""What clients call the network of containers that name none."""
CONTAINER = "container:"
"""Network mode of one that shares another's."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""Of networks: also what CNI takes for one, and a directory's name."""
OPTION = "com.docker.network"


class PoolRequest(Value, frozen=True):
    """A subnet that is asked for; empty fields are chosen."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")
    auxiliary_addresses: dict[str, str] = msgspec.field(default_factory=dict)


class IpamRequest(Value, frozen=True):
    """Who gives addresses ("default" alone), out of which subnets."""

    driver: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)
    config: tuple[PoolRequest, ...] = ()


class ConfigFrom(Value, frozen=True):
    """Another network that has the configuration."""

    network: str = ""


class NetworkRequest(Value, frozen=True):
    """The body of POST /networks/create."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigFrom | None = None
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = msgspec.field(default=None, name="EnableIPv6")
    ipam: IpamRequest | None = msgspec.field(default=None, name="IPAM")
    options: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet of a network."""

    subnet: str
    gateway: str = ""
    """The bridge's address; "" where the plugin chooses."""
    ip_range: str = ""
    """Where addresses are given from; "": all of the subnet."""
    auxiliary: dict[str, str] = msgspec.field(default_factory=dict)
    """Addresses that are somebody else's, by name."""

    @property
    def network(self) -> IPNetwork:
        return ip_network(self.subnet)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network of this host."""

    id: str
    """64 hex digits."""
    name: str
    created: str = NEVER
    driver: str = BRIDGE
    """bridge, host, null; cni: a conflist of the administrator's."""
    scope: str = "local"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    """Nothing is routed into it or out of it."""
    attachable: bool = False
    pools: tuple[Pool, ...] = ()
    user_subnets: bool = False
    """Somebody asked for these subnets: then addresses may be asked for, too."""
    ipam_options: dict[str, str] = msgspec.field(default_factory=dict)
    options: dict[str, str] = msgspec.field(default_factory=dict)
    owns_bridge: bool = True
    """Its bridge was made for it, and goes with it."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    """Other names that it is found by."""

    @property
    def is_predefined(self) -> bool:
        """There always, whoever wants it."""
        return self.name in PREDEFINED

    @property
    def has_names(self) -> bool:
        """Containers find each other by name in it: not in docker0, as ever, nor where a cluster has its own DNS."""
        return self.driver == "bridge" and self.name != BRIDGE

    @property
    def bridge(self) -> str:
        """The bridge's interface; "" when it has none that we know of."""
        if self.driver != "bridge":
            return ""
        chosen = self.options.get(f"{OPTION}.bridge.name", "")
        return chosen or ("docker0" if self.name == BRIDGE else f"br-{self.id[:12]}")

    def flag(self, name: str, default: bool) -> bool:
        """An option that is true or false, as Go's strconv.ParseBool reads it; raises InvalidParameter."""
        text = self.options.get(f"{OPTION}.{name}", "")
        if text == "":
            return default
        if text.lower() in ("1", "t", "true"):
            return True
        if text.lower() in ("0", "f", "false"):
            return False
        raise InvalidParameter(f'invalid value for option {OPTION}.{name}: got {text!r}, expected "true" or "false"')

    @property
    def mtu(self) -> int:
        """Bytes; 0: the kernel's default. Raises InvalidParameter."""
        text = self.options.get(f"{OPTION}.driver.mtu", "0")
        if not text.isdecimal() or not 0 <= int(text) <= 65535:
            raise InvalidParameter(f"invalid value for option {OPTION}.driver.mtu: got {text!r}, expected bytes, 65535 at most")
        return int(text)


@dataclass(frozen=True, slots=True)
class Joined:
    """What a container gets to start with."""

    netns: str
    """Path of its network namespace; "host": the host's own."""
    endpoints: dict[str, EndpointSettings] = field(default_factory=dict)
    """By network, what was asked for and what was given."""
    ports: Published = field(default_factory=dict)
    """Exposed ports that are not published are there with nothing."""
    etc_hosts: str = ""
    resolv_conf: str = ""
    hostname: str = ""
    shares_files_of: str = ""
    """Container whose hosts, hostname and resolv.conf it is to see, in place of these texts; "": none."""


def generated_mac(ip: str) -> str:
    """The MAC that the bridge plugin makes from an address; "" without one."""
    return bytes((0x0A, 0x58, *ip_address(ip).packed[-4:])).hex(":") if ip else ""


def as_asked(settings: EndpointSettings) -> EndpointSettings:
    """Without what was given: what the next start is to ask for. A MAC made from the address given was not asked for."""
    given = generated_mac(settings.ip_address or settings.global_ipv6_address)
    return msgspec.structs.replace(
        settings,
        mac_address="" if settings.mac_address == given else settings.mac_address,
        endpoint_id="",
        gateway="",
        ip_address="",
        ip_prefix_len=0,
        ipv6_gateway="",
        global_ipv6_address="",
        global_ipv6_prefix_len=0,
    )
