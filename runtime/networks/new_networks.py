"""A request for a network made a network, checked and with subnets; predefined ones too; must not know which there are."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from ipaddress import ip_interface

import msgspec

from flanneld.linux.links import link
from flanneld.linux.netlink import Netlink
from runtime import clock
from runtime.errors import Forbidden, InvalidParameter, NotFound, NotSupported
from runtime.networks.addresses import (
    checked_pool,
    choose_subnet,
    first_host,
    networks_of_host,
    overlapping,
    refuse_overlap,
    unique_local,
)
from runtime.networks.network import (
    BRIDGE,
    DEFAULT,
    HOST,
    NAME,
    NONE,
    OPTION,
    PREDEFINED,
    IPNetwork,
    Network,
    NetworkRequest,
    Pool,
    PoolRequest,
)
from runtime.settings import Settings

DRIVERS = {BRIDGE: "bridge", HOST: "host", NONE: "null"}
DOCKER0, OURS = "docker0", "tartan0"
"""The default bridge's name, and another for a host where docker0 is another engine's."""
SHOWN = {
    f"{OPTION}.bridge.default_bridge": "true",
    f"{OPTION}.bridge.enable_icc": "true",
    f"{OPTION}.bridge.enable_ip_masquerade": "true",
    f"{OPTION}.bridge.host_binding_ipv4": "0.0.0.0",  # noqa: S104  # what "published" means
    f"{OPTION}.bridge.name": DOCKER0,
    f"{OPTION}.driver.mtu": "1500",
}
"""What inspect tells of the default bridge."""


def check_request(request: NetworkRequest) -> None:
    """Raise InvalidParameter, Forbidden, NotFound, NotSupported for what can be no network here, in Docker's words."""
    if request.name in (DEFAULT, *PREDEFINED):
        raise Forbidden(f"operation is not permitted on predefined {request.name} network")
    if not request.name.strip():
        raise InvalidParameter("invalid network name: name is empty")
    if not NAME.fullmatch(request.name):
        raise InvalidParameter(f"invalid network name: got {request.name!r}, expected {NAME.pattern}")
    if request.driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{request.driver}" network is allowed')
    if request.driver not in ("", "bridge", "default"):
        raise NotFound(f'plugin "{request.driver}" not found: networks of other kinds are CNI configurations of the administrator')
    if request.ipam and request.ipam.driver not in ("", "default"):
        raise NotFound(f'plugin "{request.ipam.driver}" not found')
    if request.ingress or request.config_only or (request.config_from is not None and request.config_from.network):
        raise NotSupported("networks of a swarm and configuration-only networks are not supported")
    if request.scope not in ("", "local"):
        raise NotSupported(f"networks of scope {request.scope!r} are not supported, expected local")
    if request.enable_ipv4 is False and not request.enable_ipv6:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")


def new_network(request: NetworkRequest, settings: Settings, taken: Sequence[IPNetwork]) -> Network:
    """The network that is asked for, with subnets that overlap none of those taken. Raises InvalidParameter, Forbidden. Blocks."""
    network_id = secrets.token_hex(32)
    asked = request.ipam.config if request.ipam else ()
    pools = [checked_pool(each) for each in asked if each.subnet]
    if any(not each.subnet and (each.gateway or each.ip_range) for each in asked):
        raise InvalidParameter("invalid network config:\nno matching subnet for gateway or range: expected a subnet")
    refuse_overlap(pools, taken)
    families = {pool.network.version for pool in pools}
    wants_4, wants_6 = request.enable_ipv4 is not False, bool(request.enable_ipv6) or 6 in families
    if wants_4 and 4 not in families:
        subnet = choose_subnet(settings.address_pools, [*taken, *networks_of_host()])
        pools.insert(0, checked_pool(PoolRequest(subnet=str(subnet))))
    if wants_6 and 6 not in families:
        pools.append(checked_pool(PoolRequest(subnet=str(unique_local(network_id)))))
    return Network(
        id=network_id,
        name=request.name,
        created=clock.now(),
        enable_ipv4=wants_4,
        enable_ipv6=wants_6,
        internal=request.internal,
        attachable=request.attachable,
        pools=tuple(pools),
        user_subnets=bool(families),
        ipam_options=dict(request.ipam.options) if request.ipam else {},
        options=dict(request.options),
        labels=dict(request.labels),
    )


def predefined(name: str, settings: Settings) -> Network:
    """One of the networks that are always there, as it is made once. Changes nothing on the host. Blocks."""
    network = Network(id=secrets.token_hex(32), name=name, created=clock.now(), driver=DRIVERS[name])
    if name != BRIDGE:
        return network
    gateway, used = ip_interface(settings.bip), networks_of_host()
    if overlapping(gateway.network, used) is not None and settings.bip == Settings().bip:
        subnet = choose_subnet(settings.address_pools, used)
        gateway = ip_interface((first_host(subnet), subnet.prefixlen))
    with Netlink() as netlink:
        device = DOCKER0 if link(netlink, DOCKER0) is None else OURS
    pool = Pool(subnet=str(gateway.network), gateway=str(gateway.ip))
    return msgspec.structs.replace(network, pools=(pool,), options=SHOWN | {f"{OPTION}.bridge.name": device})
