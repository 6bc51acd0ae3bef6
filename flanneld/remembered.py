"""What a host remembers of itself from one run to the next, in a file beside subnet.env; must not know what it is used for.

subnet.env tells others which subnet this host has. This file tells our own next run by which claim, and which methods peers may
still use to reach us: after a change of the backend the former one is needed until every peer has left it. JSON:

    {"subnets": ["10.244.5.0/24"], "created": 17, "publicIPs": ["10.0.0.11"], "published": ["62ac…"], "configs": ["{...}"]}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from flanneld.lease import Lease, LeaseAttrs
from flanneld.subnet_env import SubnetEnvError, replace_file

SUFFIX = ".memory"
"""After subnet.env's own name."""
MOST_PUBLISHED = 64
"""Of what we ever published the last so many are remembered."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """One host's memory."""

    lease: Lease | None = None
    """The claim that we had last; without what it published, but for our public IPs."""
    published: tuple[str, ...] = ()
    """What this claim ever said by our hand, the last at the end, each as its `LeaseAttrs.fingerprint`."""
    configs: tuple[str, ...] = ()
    """The network configs that we serve, the present one first, then those that some peer may still be served by."""


def beside(subnet_file: Path) -> Path:
    """Where the memory is that belongs to this subnet.env."""
    return subnet_file.with_name(subnet_file.name + SUFFIX)


def state_of(subnet_file: Path) -> Path:
    """Where methods keep what belongs to this subnet.env."""
    return subnet_file.with_name(f"{subnet_file.name}.state")


def render(memory: Remembered) -> str:
    """The file's text."""
    lease = memory.lease
    known = {
        "subnets": [str(subnet) for subnet in lease.subnets] if lease else [],
        "created": lease.created if lease else 0,
        "publicIPs": [str(ip) for ip in lease.attrs.public_ips] if lease else [],
        "published": memory.published,
        "configs": memory.configs,
    }
    return json.dumps(known) + "\n"


def parse(text: str) -> Remembered:
    """Read the file's text; raises ValueError for anything but what `render` writes."""
    try:
        known = json.loads(text)
        subnets = tuple(map(ip_network, known["subnets"]))
        attrs = LeaseAttrs(tuple(map(ip_address, known["publicIPs"])))
        lease = Lease(subnets, attrs, created=int(known["created"])) if subnets else None
        return Remembered(lease, tuple(map(str, known.get("published", ()))), tuple(map(str, known["configs"])))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a memory: {error!r}") from error


def recall(path: Path) -> Remembered:
    """What the file says, nothing when there is none; raises SubnetEnvError."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Remembered()
    except (OSError, ValueError) as error:
        raise SubnetEnvError(f"cannot read {path}: {error}") from error


def remember(path: Path, memory: Remembered) -> None:
    """Replace the file at once; raises SubnetEnvError."""
    replace_file(path, render(memory))
