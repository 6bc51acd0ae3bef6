"""Who is called what in networks whose containers find each other by name: pure; must not know DNS messages.

Every answer is computed from the sandboxes as they are: a new name, alias or attachment counts from the next question on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from runtime.networks.sandbox import Attached, Sandbox

IPAddress: TypeAlias = IPv4Address | IPv6Address


def own_names(sandbox: Sandbox, attached: Attached) -> tuple[str, ...]:
    """What a container is called in one network, each once: its name first, then aliases, short id and host name."""
    words = (sandbox.name, *attached.settings.aliases, sandbox.short_id, sandbox.hostname)
    return tuple(dict.fromkeys(word for word in words if word))


def addresses_by_name(asker: Sandbox, everybody: Collection[Sandbox], asked: str) -> list[IPAddress] | None:
    """The addresses of all whom the asker knows by that name, with or without `.NETWORK` behind; None: that is nobody's name."""
    name = asked.rstrip(".").lower()
    found: dict[IPAddress, None] = {}
    known = False
    for mine in asker.attached:
        if not mine.has_names:
            continue
        bare = {name, name.removesuffix(f".{mine.network.lower()}")}
        aliases = _linked(asker, mine)
        for other in everybody:
            theirs = other.in_network(mine.network_id)
            if theirs is not None and bare & {*_lower(own_names(other, theirs)), *_aliases_of(other, aliases)}:
                known = True
                found |= dict.fromkeys(addresses_of(theirs))
    return list(found) if known else None


def name_by_address(asker: Sandbox, everybody: Collection[Sandbox], address: IPAddress) -> str | None:
    """`NAME.NETWORK` of who has the address in one of the asker's networks."""
    for mine in asker.attached:
        for other in everybody if mine.has_names else ():
            theirs = other.in_network(mine.network_id)
            if theirs is not None and address in addresses_of(theirs):
                return f"{other.name}.{mine.network}"
    return None


def addresses_of(attached: Attached) -> list[IPAddress]:
    """What it was given, IPv4 first."""
    given = (attached.settings.ip_address, attached.settings.global_ipv6_address)
    return [ip_address(text) for text in given if text]


def split_link(text: str) -> tuple[str, str]:
    """ "container:alias", "container" or "/container:/self/alias", as clients and inspect write it."""
    target, _, alias = text.partition(":")
    target = target.strip("/")
    return target, alias.rpartition("/")[2] or target


def _linked(asker: Sandbox, mine: Attached) -> list[tuple[str, str]]:
    return [split_link(text) for text in (*asker.links, *mine.settings.links)]


def _aliases_of(other: Sandbox, links: Collection[tuple[str, str]]) -> Iterator[str]:
    return (alias.lower() for target, alias in links if target in (other.name, other.id, other.short_id))


def _lower(words: Collection[str]) -> set[str]:
    return {word.lower() for word in words}
