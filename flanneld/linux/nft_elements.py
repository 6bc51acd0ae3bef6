"""Elements of nf_tables' sets and maps, and the socket that changes them: a few system calls a change, no library.

A batch is a transaction: if one message of it is refused, nothing of it is done. Must not know what the elements are for.
Source: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h, net/netfilter/nfnetlink.c.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass

from flanneld.kernel import KernelError
from flanneld.lease import Family
from flanneld.linux.message import (
    NLM_F_ACK,
    NLM_F_CREATE,
    Message,
    attribute,
    attributes,
    integer,
    nested,
    split_messages,
    string,
    text,
)
from flanneld.linux.netlink import DONE, NLMSG_ERROR, Errno, Netlink, decode_outcome
from flanneld.linux.nft import NETLINK_NETFILTER, NFGENMSG_SIZE, NFNL_SUBSYS_NFTABLES, NFPROTO, NFT_MSG_GETGEN, NftMissing
from flanneld.linux.nft_tables import NftTable

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET = 1, 4, 7, 10
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_USE = 1, 3, 6
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM, NFT_MSG_NEWGEN = 12, 13, 14, 15
NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 2, 3
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY_END = 1, 2, 10
NFTA_TABLE_FLAGS, NFTA_TABLE_HANDLE = 2, 4
NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_HANDLE = 2, 3, 16
SO_SNDBUFFORCE = 32
"""asm-generic/socket.h; Python's socket module does not name it."""
SEND_BUFFER = 4 << 20
"""Bytes; a limit, not an allocation: a transaction has to be one send, and an element takes 150 at most."""


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set or map of one table, as the kernel keeps it."""

    set: str
    key: bytes
    """Of an interval set: where it begins."""
    value: bytes = b""
    end: bytes = b""
    """Of an interval set: where the key ends, inclusive; else empty."""


def encode_element(table: NftTable, element: Element, *, delete: bool = False) -> Message:
    """The part of a batch that puts an element in, or takes it out."""
    kind, flags = (NFT_MSG_DELSETELEM, 0) if delete else (NFT_MSG_NEWSETELEM, NLM_F_CREATE)
    return _about(table, kind, element, flags)


def _about(table: NftTable, kind: int, element: Element, flags: int = 0) -> Message:
    # An attribute of data is nested, in it the one of its value, number 1.
    parts = [nested(NFTA_SET_ELEM_KEY, attribute(1, element.key))]
    if element.end:
        parts.append(nested(NFTA_SET_ELEM_KEY_END, attribute(1, element.end)))
    if element.value and kind == NFT_MSG_NEWSETELEM:
        parts.append(nested(NFTA_SET_ELEM_DATA, attribute(1, element.value)))
    only = nested(NFTA_SET_ELEM_LIST_ELEMENTS, nested(1, *parts))
    return table.request(kind, text(NFTA_SET_ELEM_LIST_SET, element.set), only, flags=flags)


def decode_elements(message: Message) -> Iterator[Element]:
    """The elements in one message about elements; raises MalformedMessage."""
    named = attributes(message.body, NFGENMSG_SIZE)
    name = string(named.get(NFTA_SET_ELEM_LIST_SET))
    for part in _list(named.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
        found = attributes(part)
        key, value, end = (
            attributes(found.get(kind, b"")).get(1, b"") for kind in (NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY_END)
        )
        yield Element(name, key, value, end)


def _list(value: bytes) -> Iterator[bytes]:
    """The members of a list, which are attributes of one number."""
    offset = 0
    while offset + 4 <= len(value):
        length = integer(value[offset : offset + 2])
        if length < 4:
            return
        yield value[offset + 4 : offset + length]
        offset += length + 3 & ~3


def concerns(notice: bytes, tables: Collection[NftTable], ours: Container[int] = ()) -> bool:
    """Whether what one receive returned tells of a change to the tables, by another socket than ours."""
    known = {(table.family, table.name) for table in tables}
    for message in split_messages(notice):
        subsystem, kind = divmod(message.kind, 256)
        if subsystem != NFNL_SUBSYS_NFTABLES or kind == NFT_MSG_NEWGEN or not message.body or message.port in ours:
            continue
        if (message.body[0], string(attributes(message.body, NFGENMSG_SIZE).get(1))) in known:
            return True
    return False


class NftSocket(Netlink):
    """A socket for transactions and questions, in the network namespace of the calling thread. Not for two threads at once."""

    def __init__(self) -> None:
        """Raises NftMissing (no netfilter in the kernel), OSError."""
        try:
            super().__init__(NETLINK_NETFILTER)
        except OSError as error:
            if error.errno not in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
                raise
            raise NftMissing("the kernel offers no nftables") from error
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def commit(self, changes: Sequence[Message]) -> list[Errno]:
        """Do all of the changes, or none: then an errno stands in the place of each refused. Raises KernelError, NftMissing.

        The kernel goes on after a refusal, so that all that would be refused are known at once.
        """
        if not changes:
            return []
        *most, last = changes
        # Only the last change asks for an answer: kernels before 6.10 give none for the end of a batch.
        last = Message(last.kind, last.body, last.flags | NLM_F_ACK)
        first = self._send([_mark(NFNL_MSG_BATCH_BEGIN), *most, last, _mark(NFNL_MSG_BATCH_END)], last_flags=0)
        outcomes = [DONE] * len(changes)
        for reply in self._replies(first, len(changes) + 1):
            place = reply.sequence - first - 1
            if reply.kind != NLMSG_ERROR:
                continue
            if place < 0:
                outcome = decode_outcome(reply)
                if outcome == errno.EOPNOTSUPP:
                    raise NftMissing("the kernel offers no nftables")
                raise KernelError(int(outcome), "an nftables transaction", outcome.why)
            outcomes[place] = decode_outcome(reply)
            if place == len(changes) - 1:
                break
        return outcomes

    def usable(self) -> None:
        """Raise KernelError if the kernel has no nf_tables, or not for us."""
        self.get("the question for nftables' generation", Message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, bytes(4)))

    def elements(self, table: NftTable, name: str) -> set[Element]:
        """All elements of a set; raises KernelError (ENOENT)."""
        question = table.request(NFT_MSG_GETSETELEM, text(NFTA_SET_ELEM_LIST_SET, name))
        return {element for reply in self.dump(question) for element in decode_elements(reply)}

    def has(self, table: NftTable, element: Element) -> bool:
        """Whether exactly this element is there; raises KernelError."""
        try:
            reply = self.get(f"the question for an element of {element.set}", _about(table, NFT_MSG_GETSETELEM, element))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return element in decode_elements(reply)

    def chain_users(self, family: Family, table: str, chain: str) -> int | None:
        """How many rules and jumps a chain of any table has, None when there is no such chain. Raises KernelError."""
        kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN
        question = Message(kind, bytes([NFPROTO[family], 0, 0, 0]) + text(NFTA_CHAIN_TABLE, table) + text(NFTA_CHAIN_NAME, chain))
        try:
            found = attributes(self.get(f"the question for chain {chain}", question).body, NFGENMSG_SIZE)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return int.from_bytes(found.get(NFTA_CHAIN_USE, b""), "big")

    def shape(self, table: NftTable) -> object:
        """What a table is but for its elements, to be compared; None when there is no such table. Raises KernelError.

        Everything made has a number that never comes again, so that what was deleted and made anew differs. The header is left out:
        its resource is the number of the last transaction, anyone's.
        """
        try:
            own = attributes(self.get(f"the question for table {table.name}", table.request(NFT_MSG_GETTABLE)).body, NFGENMSG_SIZE)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        sets = [attributes(reply.body, NFGENMSG_SIZE) for reply in self.dump(table.request(NFT_MSG_GETSET))]
        return (
            [own.get(kind) for kind in (NFTA_TABLE_FLAGS, NFTA_TABLE_HANDLE)],
            [[found.get(kind) for kind in (NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_HANDLE)] for found in sets],
            [reply.body[NFGENMSG_SIZE:] for reply in self.dump(table.request(NFT_MSG_GETRULE))],
        )


def _mark(kind: int) -> Message:
    # struct nfgenmsg: AF_UNSPEC, NFNETLINK_V0, and whose batch it is, big-endian.
    return Message(kind, bytes([0, 0]) + NFNL_SUBSYS_NFTABLES.to_bytes(2, "big"))
