"""The expressions that rules of nf_tables consist of: values -> bytes, sans-IO; must not know what the rules are for.

They work on registers, 16 of 4 bytes each: fields of the packet are loaded side by side, each padded to whole registers, and then
compared or looked up. Source: linux/netfilter/nf_tables.h. Attributes are big-endian; what is in a register has the byte order of
where it came from.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flanneld.lease import IPNetwork
from flanneld.linux.message import attribute, nested, text

NFT_REG_VERDICT, NFT_REG32_00 = 0, 8
NF_DROP, NF_ACCEPT, NFT_JUMP = 0, 1, -3
NFT_META_MARK, NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_NFPROTO, NFT_META_L4PROTO = 3, 6, 7, 15, 16
NFT_CT_STATE, NFT_CT_DIRECTION, NFT_CT_STATUS = 0, 1, 2
LINK_HEADER, NETWORK_HEADER, TRANSPORT_HEADER = 0, 1, 2
NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR = 3, 2
NFT_CMP_EQ, NFT_CMP_NEQ = 0, 1
NFT_NAT_DNAT = 1


def be32(kind: int, value: int) -> bytes:
    """An attribute that is a big-endian 32-bit number."""
    return attribute(kind, (value & 0xFFFF_FFFF).to_bytes(4, "big"))


def padded(size: int) -> int:
    """Bytes that a field of that size takes beside others."""
    return size + 3 & ~3


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *attributes))


@dataclass(frozen=True, slots=True)
class Field:
    """Something of a packet that can be loaded into registers."""

    size: int
    load: Callable[[int], bytes]
    """The expression that loads it, from that register on."""


def meta(key: int, size: int = 4) -> Field:
    """What the kernel notes beside the packet."""
    return Field(size, lambda register: _expression("meta", be32(2, key), be32(1, register)))


def conntrack(key: int, size: int = 4) -> Field:
    """What it knows of the packet's connection."""
    return Field(size, lambda register: _expression("ct", be32(2, key), be32(1, register)))


def payload(header: int, offset: int, size: int) -> Field:
    """Bytes of the link, network or transport header."""
    return Field(size, lambda register: _expression("payload", be32(1, register), be32(2, header), be32(3, offset), be32(4, size)))


MARK = meta(NFT_META_MARK)
IIFNAME, OIFNAME = meta(NFT_META_IIFNAME, 16), meta(NFT_META_OIFNAME, 16)
L4PROTO, DPORT = meta(NFT_META_L4PROTO, 1), payload(TRANSPORT_HEADER, 2, 2)
ETHER_SADDR = payload(LINK_HEADER, 6, 6)
SADDR = {4: payload(NETWORK_HEADER, 12, 4), 6: payload(NETWORK_HEADER, 8, 16)}
DADDR = {4: payload(NETWORK_HEADER, 16, 4), 6: payload(NETWORK_HEADER, 24, 16)}
CT_STATE, CT_DIRECTION, CT_STATUS = conntrack(NFT_CT_STATE), conntrack(NFT_CT_DIRECTION, 1), conntrack(NFT_CT_STATUS)
DADDR_TYPE = Field(4, lambda r: _expression("fib", be32(1, r), be32(2, NFT_FIB_RESULT_ADDRTYPE), be32(3, NFTA_FIB_F_DADDR)))
"""RTN_*: what the address is to this host."""


def equals(field: Field, value: bytes, *, equal: bool = True) -> bytes:
    """Go on only if the field's first bytes are (not) these."""
    return field.load(NFT_REG32_00) + _compare(equal, nested(3, attribute(1, value)))


def _compare(equal: bool, data: bytes) -> bytes:
    return _expression("cmp", be32(1, NFT_REG32_00), be32(2, NFT_CMP_EQ if equal else NFT_CMP_NEQ), data)


def in_network(field: Field, network: IPNetwork, *, inside: bool = True) -> bytes:
    """Go on only if the address is (not) in the network."""
    operands = nested(4, attribute(1, network.netmask.packed)), nested(5, attribute(1, bytes(field.size)))
    masked = _expression("bitwise", be32(1, NFT_REG32_00), be32(2, NFT_REG32_00), be32(3, field.size), *operands)
    data = nested(3, attribute(1, network.network_address.packed))
    return field.load(NFT_REG32_00) + masked + _compare(inside, data)


def host_order(value: int, size: int = 4) -> bytes:
    """As mark, connection state and address type are in a register."""
    return value.to_bytes(size, sys.byteorder)


def has_bits(field: Field, bits: int, *, any_bit: bool = True) -> bytes:
    """Go on only if one of the bits is set (or none of them)."""
    return _bits(field, bits, 0) + _compare(not any_bit, nested(3, attribute(1, bytes(4))))


def set_mark(bits: int, on: bool) -> bytes:
    """Set the bits of the packet's mark, or clear them."""
    changed = _bits(MARK, ~bits & 0xFFFF_FFFF, bits if on else 0)
    return changed + _expression("meta", be32(2, NFT_META_MARK), be32(3, NFT_REG32_00))


def _bits(field: Field, mask: int, xor: int) -> bytes:
    operands = nested(4, attribute(1, host_order(mask))), nested(5, attribute(1, host_order(xor)))
    registers = be32(1, NFT_REG32_00), be32(2, NFT_REG32_00), be32(3, 4)
    return field.load(NFT_REG32_00) + _expression("bitwise", *registers, *operands)


def in_set(name: str, *fields: Field, inside: bool = True) -> bytes:
    """Go on only if the fields together are (not) in the set."""
    return _load(fields) + _expression("lookup", text(1, name), be32(2, NFT_REG32_00), be32(5, 0 if inside else 1))


def dnat_by(name: str, family: int, *fields: Field) -> bytes:
    """Redirect to the address and port that the map has for the fields; go on if it has none."""
    address_size = 4 if family == 4 else 16
    port = NFT_REG32_00 + address_size // 4
    found = _expression("lookup", text(1, name), be32(2, NFT_REG32_00), be32(3, NFT_REG32_00))
    number = socket.AF_INET if family == 4 else socket.AF_INET6
    return _load(fields) + found + _expression("nat", be32(1, NFT_NAT_DNAT), be32(2, number), be32(3, NFT_REG32_00), be32(5, port))


def _load(fields: Sequence[Field]) -> bytes:
    loaded, register = b"", NFT_REG32_00
    for field in fields:
        loaded += field.load(register)
        register += padded(field.size) // 4
    return loaded


def of_family(family: int) -> bytes:
    """Go on only with packets of that version of IP."""
    return equals(meta(NFT_META_NFPROTO, 1), bytes([socket.AF_INET if family == 4 else socket.AF_INET6]))


MASQUERADE = _expression("masq")


def verdict(code: int, chain: str = "") -> bytes:
    """NF_DROP, NF_ACCEPT, or NFT_JUMP to a chain."""
    decided = nested(2, be32(1, code), text(2, chain) if chain else b"")
    return _expression("immediate", be32(1, NFT_REG_VERDICT), nested(2, decided))
