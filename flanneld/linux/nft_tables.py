"""Tables, sets, chains and rules of nf_tables as netlink messages: values -> bytes, sans-IO; must not know what the rules are for.

Source: linux/netfilter/nf_tables.h, whose attributes are big-endian.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from flanneld.linux.message import NLM_F_CREATE, Message, attribute, nested, text
from flanneld.linux.nft import NFNL_SUBSYS_NFTABLES
from flanneld.linux.nft_expressions import NF_ACCEPT, be32, padded

NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET = 0, 2, 3, 6, 9
NLM_F_APPEND = 0x800
NFT_SET_INTERVAL, NFT_SET_MAP, NFT_SET_CONCAT = 0x4, 0x8, 0x80
UDATA_KEY_BYTEORDER, HOST_ORDER = 0, 1
"""What nft(8) wants to be told, so that it prints names of interfaces and not the bytes backwards."""


class NftFamily(IntEnum):
    """Of a table (NFPROTO_*)."""

    INET = 1
    BRIDGE = 7


class Hook(IntEnum):
    """Where a base chain sees packets (NF_INET_*, NF_BR_*)."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class NftType(IntEnum):
    """Of a field in a set's key or a map's value: nft's number for it, which the kernel only keeps."""

    IPV4_ADDR = 7
    IPV6_ADDR = 8
    ETHER_ADDR = 9
    INET_PROTO = 12
    INET_SERVICE = 13
    IFNAME = 41

    @property
    def size(self) -> int:
        """Bytes."""
        return _SIZES[self]


_SIZES = {
    NftType.IPV4_ADDR: 4,
    NftType.IPV6_ADDR: 16,
    NftType.ETHER_ADDR: 6,
    NftType.INET_PROTO: 1,
    NftType.INET_SERVICE: 2,
    NftType.IFNAME: 16,
}


@dataclass(frozen=True, slots=True)
class NftSet:
    """A set, or with `value` a map."""

    name: str
    key: tuple[NftType, ...]
    value: tuple[NftType, ...] = ()
    interval: bool = False
    """Each field of a key is a range."""


@dataclass(frozen=True, slots=True)
class NftChain:
    """A chain and its rules, each the expressions of one; without a hook it is jumped to."""

    name: str
    rules: tuple[bytes, ...]
    hook: Hook | None = None
    kind: str = "filter"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table with all that is in it but the elements."""

    family: NftFamily
    name: str
    sets: tuple[NftSet, ...]
    chains: tuple[NftChain, ...]
    """Those that are jumped to come first."""

    def request(self, kind: int, *attributes: bytes, flags: int = 0) -> Message:
        """A request about this table: its name has the number 1 in every kind of message."""
        header = bytes([self.family, 0, 0, 0])  # struct nfgenmsg
        return Message(NFNL_SUBSYS_NFTABLES << 8 | kind, header + text(1, self.name) + b"".join(attributes), flags)


def replace_table(table: NftTable) -> list[Message]:
    """The part of a batch that leaves the table as defined, without an element, whatever was there."""
    new = table.request(NFT_MSG_NEWTABLE, flags=NLM_F_CREATE)
    return [
        new,
        table.request(NFT_MSG_DELTABLE),
        new,
        *(_encode_set(table, number, each) for number, each in enumerate(table.sets, 1)),
        *(_encode_chain(table, chain) for chain in table.chains),
        *(_encode_rule(table, chain, rule) for chain in table.chains for rule in chain.rules),
    ]


def delete_table(table: NftTable) -> list[Message]:
    """The part of a batch after which there is no such table, whether there was one or not."""
    return [table.request(NFT_MSG_NEWTABLE, flags=NLM_F_CREATE), table.request(NFT_MSG_DELTABLE)]


def key_size(fields: Sequence[NftType]) -> int:
    """Bytes of a key: fields beside each other are padded, one alone is not."""
    return fields[0].size if len(fields) == 1 else sum(padded(field.size) for field in fields)


def _encode_set(table: NftTable, number: int, wanted: NftSet) -> Message:
    concatenated = wanted.interval and len(wanted.key) > 1
    flags = (
        (NFT_SET_INTERVAL if wanted.interval else 0)
        | (NFT_SET_CONCAT if concatenated else 0)
        | (NFT_SET_MAP if wanted.value else 0)
    )
    # NFTA_SET_DESC: NFTA_SET_DESC_CONCAT, in it NFTA_LIST_ELEM each, in it NFTA_SET_FIELD_LEN.
    lengths = b"".join(nested(1, be32(1, field.size)) for field in wanted.key)
    value = (be32(6, _type_number(wanted.value)), be32(7, key_size(wanted.value))) if wanted.value else ()
    order = bytes([UDATA_KEY_BYTEORDER, 4]) + HOST_ORDER.to_bytes(4, sys.byteorder)
    return table.request(
        NFT_MSG_NEWSET,
        text(2, wanted.name),
        be32(3, flags),
        be32(4, _type_number(wanted.key)),
        be32(5, key_size(wanted.key)),
        *value,
        nested(9, nested(2, lengths)) if concatenated else b"",
        be32(10, number),
        attribute(13, order) if wanted.key == (NftType.IFNAME,) else b"",
        flags=NLM_F_CREATE,
    )


def _type_number(fields: Sequence[NftType]) -> int:
    number = 0
    for field in fields:
        number = number << 6 | field
    return number


def _encode_chain(table: NftTable, chain: NftChain) -> Message:
    base: tuple[bytes, ...] = ()
    if chain.hook is not None:
        base = (nested(4, be32(1, chain.hook), be32(2, chain.priority)), be32(5, NF_ACCEPT), text(7, chain.kind))
    return table.request(NFT_MSG_NEWCHAIN, text(3, chain.name), *base, flags=NLM_F_CREATE)


def _encode_rule(table: NftTable, chain: NftChain, rule: bytes) -> Message:
    return table.request(NFT_MSG_NEWRULE, text(2, chain.name), attribute(4 | 0x8000, rule), flags=NLM_F_CREATE | NLM_F_APPEND)
