"""The network config (flannel's JSON under `<prefix>/config`) as values, its defaults and rules; must not know where it came from.

Keys match without regard to case, as Go's JSON does; unknown keys are returned as warnings, wrong values raise ConfigError. Where
Go cannot tell a zero from an absent key (`SubnetLen: 0`, `SubnetMin: "0.0.0.0"`) a zero means the default here too.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import TypeVar

from flanneld import FlanneldError
from flanneld.lease import FAMILIES, Family, IPAddress, IPNetwork, Pool

DEFAULT_BACKEND = "vxlan"
"""As flannel's documentation says; its code says udp."""

Value = TypeVar("Value", bool, int, str, dict[str, object])


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
    backend: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """The rest of the `Backend` object, read-only, keys in lower case, for the backend to parse."""
    enable_nftables: bool = False
    warnings: tuple[str, ...] = ()
    """What was ignored, in words."""
    text: str = field(default="", compare=False)
    """As it was written."""

    def pool(self, family: Family) -> Pool | None:
        return next((pool for pool in self.pools if pool.family == family), None)


@dataclass(frozen=True, slots=True)
class FamilyRules:
    """All that differs between the families (flannel's pkg/subnet/config.go)."""

    prefix: str
    """Before each key name."""
    enabled: bool
    """Unless `EnableIPv4`, `EnableIPv6` say otherwise."""
    bits: int
    default_len: int
    """What a host gets from a network that has room for four of these."""
    example: str

    @property
    def longest_len(self) -> int:
        """Four addresses: a host needs one for its device and one for its bridge."""
        return self.bits - 2

    @property
    def longest_network(self) -> int:
        """Four subnets: the first is not used, and of two it would leave one."""
        return self.longest_len - 2


RULES: Mapping[Family, FamilyRules] = {
    4: FamilyRules("", enabled=True, bits=32, default_len=24, example="10.244.0.0/16"),
    6: FamilyRules("IPv6", enabled=False, bits=128, default_len=64, example="fd00:244::/48"),
}
POOL_KEYS: Mapping[str, Family] = {
    f"{rules.prefix}{key}".lower(): family
    for family, rules in RULES.items()
    for key in ("Network", "SubnetLen", "SubnetMin", "SubnetMax")
}
OTHER_KEYS = frozenset({"enableipv4", "enableipv6", "enablenftables", "backend"})
JSON_TYPES: Mapping[type, str] = {bool: "true or false", int: "a whole number", str: "a string", dict: "an object"}


def parse_network(text: str) -> NetworkConfig:
    """Read flannel's network config JSON; raises ConfigError with flannel's words for each rule broken."""
    written = _parse_json(text)
    config = _fold(written)
    enabled = {family: _enabled(config, family) for family in FAMILIES}
    if not any(enabled.values()):
        raise ConfigError("EnableIPv4", "false, and EnableIPv6 is not true: no address family is left")
    backend = _fold(_read(config, "Backend", dict) or {})
    backend_type = _read(backend, "Type", str, path="Backend.") or DEFAULT_BACKEND
    return NetworkConfig(
        pools=tuple(_pool(config, family) for family in FAMILIES if enabled[family]),
        backend_type=backend_type.lower(),
        backend=MappingProxyType({key: value for key, value in backend.items() if key != "type"}),
        enable_nftables=_read(config, "EnableNFTables", bool) or False,
        warnings=_ignored(written, enabled),
        text=text,
    )


def read_int(config: Mapping[str, object], key: str, default: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included, of the `Backend` object; raises ConfigError."""
    value = _read(config, key, int, path="Backend.")
    if value is None:
        return default
    if not low <= value <= high:
        raise ConfigError(f"Backend.{key}", f"expected {low} to {high}, got {_shown(value)}")
    return value


def read_bool(config: Mapping[str, object], key: str, default: bool) -> bool:
    """True or false from the `Backend` object; raises ConfigError."""
    value = _read(config, key, bool, path="Backend.")
    return default if value is None else value


def read_switch(config: Mapping[str, object], key: str) -> bool | None:
    """True, false, or None for "auto", which is also the default; raises ConfigError."""
    value = config.get(key.lower())
    if value is None or (isinstance(value, str) and value.lower() == "auto"):
        return None
    if not isinstance(value, bool):
        raise ConfigError(f"Backend.{key}", f'expected true, false or "auto", got {_shown(value)}')
    return value


def read_choice(config: Mapping[str, object], key: str, choices: Sequence[str]) -> str:
    """Read a word, the first of the choices where there is none; raises ConfigError for any other."""
    value = _read(config, key, str, "Backend.")
    if value is None:
        return choices[0]
    if value.lower() not in choices:
        raise ConfigError(f"Backend.{key}", f"{value!r}, expected one of {', '.join(choices)}")
    return value.lower()


def _parse_json(text: str) -> dict[str, object]:
    try:
        value: object = json.loads(text, object_pairs_hook=_object, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise ConfigError("network config", f"not JSON: {error}, got {_shown(text)}") from error
    if not isinstance(value, dict):
        raise ConfigError("network config", f"expected an object, got {_shown(value)}")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Keep the last of equal keys in the last one's place, and no null, which Go's decoder skips."""
    fields: dict[str, object] = {}
    for key, value in pairs:
        if value is not None:
            fields.pop(key, None)
            fields[key] = value
    return fields


def _not_json(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _fold(written: Mapping[str, object]) -> dict[str, object]:
    return {key.lower(): value for key, value in written.items()}


def _read(config: Mapping[str, object], key: str, kind: type[Value], path: str = "") -> Value | None:
    """The value under `key`, None when absent; raises ConfigError when it is of another JSON type."""
    value = config.get(key.lower())
    if value is None:
        return None
    # bool is a kind of int in Python, but no number in JSON
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise ConfigError(path + key, f"expected {JSON_TYPES[kind]}, got {_shown(value)}")
    return value


def _enabled(config: Mapping[str, object], family: Family) -> bool:
    value = _read(config, f"EnableIPv{family}", bool)
    return RULES[family].enabled if value is None else value


def _pool(config: Mapping[str, object], family: Family) -> Pool:
    rules = RULES[family]
    network = _network(config, family)
    length = _subnet_len(config, rules, network)
    step = 1 << (rules.bits - length)
    address = type(network.network_address)
    # The first subnet is skipped: its first address is the network's own.
    second = ip_network((address(int(network.network_address) + step), length))
    last = ip_network((address(int(network.broadcast_address) + 1 - step), length))
    widest = Pool(network, length, second, last)
    pool = replace(widest, first=_bound(config, "SubnetMin", widest, second), last=_bound(config, "SubnetMax", widest, last))
    if pool.size < 1:
        why = f"{pool.first.network_address} is above {rules.prefix}SubnetMax {pool.last.network_address}"
        raise ConfigError(f"{rules.prefix}SubnetMin", why)
    return pool


def _network(config: Mapping[str, object], family: Family) -> IPNetwork:
    rules = RULES[family]
    key = f"{rules.prefix}Network"
    text = _read(config, key, str)
    wanted = f"please define a correct {key} parameter in the flannel config: expected a CIDR like {rules.example}"
    if text is None:
        raise ConfigError(key, f"{wanted}, got none")
    try:
        return _cidr(text, family)
    except ValueError as error:
        raise ConfigError(key, f"{wanted}, got {_shown(text)}") from error


def _cidr(text: str, family: Family) -> IPNetwork:
    """`address/length` and nothing else (`ipaddress` takes netmasks and bare addresses), host bits masked off."""
    address, _, length = text.partition("/")
    if not (length.isascii() and length.isdigit() and int(length)):
        raise ValueError(f"expected a length from 1, got {length}")
    return ip_network((_address(address, family), int(length)), strict=False)


def _subnet_len(config: Mapping[str, object], rules: FamilyRules, network: IPNetwork) -> int:
    key = f"{rules.prefix}SubnetLen"
    length = _read(config, key, int)
    shortest = network.prefixlen + 2
    if not length:
        if network.prefixlen > rules.longest_network:
            why = f"network is too small. Minimum useful network prefix is /{rules.longest_network}, got {network}"
            raise ConfigError(f"{rules.prefix}Network", why)
        return max(rules.default_len, shortest)
    if length > rules.longest_len:
        raise ConfigError(key, f"SubnetLen must be less than /{rules.longest_len + 1}, got {_shown(length)}")
    if length < shortest:
        why = f"network must be able to accommodate at least four subnets: {network} takes {shortest} or more, got {_shown(length)}"
        raise ConfigError(key, why)
    return length


def _bound(config: Mapping[str, object], name: str, pool: Pool, default: IPNetwork) -> IPNetwork:
    """SubnetMin or SubnetMax, as the subnet that starts there."""
    key = f"{RULES[pool.family].prefix}{name}"
    text = _read(config, key, str)
    try:
        address = None if text is None else _address(text, pool.family)
    except ValueError as error:
        raise ConfigError(key, f"expected an IPv{pool.family} address, got {_shown(text)}") from error
    if address is None or not int(address):
        return default
    if address not in pool.network:
        raise ConfigError(key, f"{key} is not in the range of the Network {pool.network}, got {address}")
    subnet = ip_network((address, pool.subnet_len), strict=False)
    if subnet.network_address != address:
        raise ConfigError(
            key, f"{key} is not on a SubnetLen boundary: {address}, expected the first address of a /{pool.subnet_len}"
        )
    return subnet


def _address(text: str, family: Family) -> IPAddress:
    address = ip_address(text)
    if address.version != family or "%" in text:
        raise ValueError(f"expected IPv{family}, got {text}")
    return address


def _ignored(written: Mapping[str, object], enabled: Mapping[Family, bool]) -> tuple[str, ...]:
    """A warning in words for each top-level key that has no effect."""
    warnings = []
    for key in written:
        family = POOL_KEYS.get(key.lower())
        if family is not None and not enabled[family]:
            warnings.append(f"{key}: ignored, EnableIPv{family} is not true")
        elif family is None and key.lower() not in OTHER_KEYS:
            warnings.append(f"{key}: unknown key, ignored")
    return tuple(warnings)


def _shown(value: object) -> str:
    """The value as JSON on one line, short enough for a log; a container as Python shows it, which stops at any depth."""
    if isinstance(value, dict | list):
        return reprlib.repr(value)
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
