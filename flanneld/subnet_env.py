"""subnet.env, the file that tells CNI plugins and docker about this host's subnet; must not know who writes or reads it.

The bytes are flannel's: variables in a fixed order, `FLANNEL_SUBNET` being the subnet's first address.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import TypeAlias

from flanneld import FlanneldError
from flanneld.lease import FAMILIES, Family, IPNetwork, family_of

PREFIX: Mapping[Family, str] = {4: "FLANNEL_", 6: "FLANNEL_IPV6_"}
MTU = "FLANNEL_MTU"
IP_MASQ = "FLANNEL_IPMASQ"
NETWORKS = {f"{prefix}NETWORK": family for family, prefix in PREFIX.items()}
SUBNETS = {f"{prefix}SUBNET": family for family, prefix in PREFIX.items()}

Line: TypeAlias = tuple[int, str]
"""A variable's value with the number of its line."""


class SubnetEnvError(FlanneldError):
    """The file cannot be read, written or understood."""


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """What the file says."""

    networks: tuple[IPNetwork, ...]
    """The pod network, one per family, IPv4 first."""
    subnets: tuple[IPNetwork, ...]
    """This host's part of each."""
    mtu: int
    """Bytes that a pod's interface may send in one packet."""
    ip_masq: bool
    """The daemon masquerades, so that plugins must not."""


def render(env: SubnetEnv) -> str:
    """The file's text."""
    lines = []
    for network, subnet in zip(env.networks, env.subnets, strict=True):
        prefix = PREFIX[family_of(network)]
        lines += [f"{prefix}NETWORK={network}", f"{prefix}SUBNET={subnet.network_address + 1}/{subnet.prefixlen}"]
    lines += [f"{MTU}={env.mtu}", f"{IP_MASQ}={str(env.ip_masq).lower()}"]
    return "".join(f"{line}\n" for line in lines)


@lru_cache(maxsize=8)
def parse(text: str) -> SubnetEnv:
    """Read the file's text; raises SubnetEnvError. A text is remembered: each pod's ADD brings the same one.

    Blanks, quotes, comments, other variables and any order are taken; of equal variables the last counts.
    """
    values = dict(_variables(text))
    networks = {family: _cidr(name, values[name], family) for name, family in NETWORKS.items() if name in values}
    subnets = {family: _cidr(name, values[name], family) for name, family in SUBNETS.items() if name in values}
    families = [family for family in FAMILIES if family in networks or family in subnets]
    wanted = [f"{PREFIX[family]}{part}" for family in families or FAMILIES[:1] for part in ("NETWORK", "SUBNET")]
    missing = [name for name in (*wanted, MTU, IP_MASQ) if name not in values]
    if missing:
        raise SubnetEnvError(f"missing {', '.join(missing)}")
    return SubnetEnv(
        networks=tuple(networks[family] for family in families),
        subnets=tuple(subnets[family] for family in families),
        mtu=_mtu(values[MTU]),
        ip_masq=values[IP_MASQ][1] == "true",
    )


def read(path: Path) -> SubnetEnv | None:
    """The file's content, None when there is no file; raises SubnetEnvError."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SubnetEnvError(f"cannot read {path}: {error.strerror}") from error
    except SubnetEnvError as error:
        raise SubnetEnvError(f"{path}: {error}") from error


def write(path: Path, env: SubnetEnv) -> None:
    """Replace the file at once; raises SubnetEnvError."""
    replace_file(path, render(env))


def replace_file(path: Path, text: str) -> None:
    """Replace a file at once (mode 0644), making its directory (0755) when there is none; raises SubnetEnvError."""
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fchmod(handle, 0o644)
                os.fsync(handle)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise SubnetEnvError(f"cannot write {path}: {error.strerror}") from error


def _variables(text: str) -> list[tuple[str, Line]]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if name.strip() not in {*NETWORKS, *SUBNETS, MTU, IP_MASQ}:
            continue
        if not equals:
            raise SubnetEnvError(f"line {number}: expected {name}=value, got {line.strip()!r}")
        found.append((name.strip(), (number, value.strip().strip("\"'"))))
    return found


def _cidr(name: str, line: Line, family: Family) -> IPNetwork:
    number, text = line
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is None or "/" not in text or network.version != family:
        raise SubnetEnvError(f"line {number}: {name}: expected one IPv{family} CIDR, got {text!r}")
    return network


def _mtu(line: Line) -> int:
    number, text = line
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise SubnetEnvError(f"line {number}: {MTU}: expected a number of bytes, got {text!r}")
    return int(text)
