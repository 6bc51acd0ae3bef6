"""Who is attached, in words for a log: pods as Kubernetes calls them, containers by their id; must not know how they hang on."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cni.ledger import HeldAddress, Key, Record, State
from cni.result import IPAddress, IPNetwork

ID_SHOWN = 12
"""Characters of a container's id, as docker and crictl show them."""


def named(records: Iterable[Record], subnets: Collection[IPNetwork]) -> tuple[str, ...]:
    """Each attachment that has addresses in these subnets, with those: "default/web-1 (10.244.5.7)"; in the addresses' order."""
    pods: dict[Key, str] = {}
    found: dict[Key, list[IPAddress]] = {}
    for record in records:
        if record.state is State.MADE:
            pods[record.key] = record.pod or pods.get(record.key, "")
            within = [held.ip for held in record.of(HeldAddress) if any(held.ip in subnet for subnet in subnets)]
            found[record.key] = found.get(record.key, []) + within
    shown = sorted((_order(addresses), key) for key, addresses in found.items() if addresses)
    return tuple(f"{_name(pods[key], key)} ({', '.join(map(str, sorted(found[key], key=_rank)))})" for _, key in shown)


def _name(pod: str, key: Key) -> str:
    return pod or f"container {key.container_id[:ID_SHOWN]} {key.ifname}"


def _rank(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)


def _order(addresses: Iterable[IPAddress]) -> tuple[int, int]:
    return min(map(_rank, addresses))
