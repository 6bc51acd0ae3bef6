"""libnftables' JSON interface through ctypes, and the kernel's notices of nftables changes; must not know what the rules are for.

Sources: libnftables(3), libnftables-json(5), linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import socket
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from flanneld import FlanneldError
from flanneld.kernel import KernelError
from flanneld.lease import Family
from flanneld.linux.message import Message, attributes, split_messages, string, text
from flanneld.linux.netlink import Netlink

LIBRARY = "libnftables.so.1"
NETLINK_NETFILTER = 12
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES = 270, 1, 7
NFNL_SUBSYS_NFTABLES = 10
NFGENMSG_SIZE = 4
"""u8 family, u8 version, u16 resource."""
NFPROTO: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 0, 1, 2
NFT_MSG_NEWCHAIN, NFT_MSG_DELCHAIN, NFT_MSG_NEWRULE, NFT_MSG_DELRULE, NFT_MSG_GETGEN = 3, 5, 6, 8, 16
NFTA_TABLE = 1
"""The table's name has this number in tables, chains and rules alike."""
NFTA_CHAIN = {
    NFT_MSG_NEWTABLE: 0,
    NFT_MSG_DELTABLE: 0,
    NFT_MSG_NEWCHAIN: 3,
    NFT_MSG_DELCHAIN: 3,
    NFT_MSG_NEWRULE: 2,
    NFT_MSG_DELRULE: 2,
}
"""The chain's name has this number (NFTA_CHAIN_NAME, NFTA_RULE_CHAIN); tables have none."""
NFTA_TABLE_FLAGS = 2
NFT_CTX_OUTPUT_JSON = 1 << 4

SETTLE_S = 0.1
"""How long a burst of changes may go on before it is reported: one transaction is many messages."""
NOTICE_BYTES = 1 << 17
"""No notice is longer: the kernel fills one buffer of at most 64 KiB and a page."""

Command: TypeAlias = Mapping[str, object]
"""One command of libnftables-json(5)."""
Object: TypeAlias = Mapping[str, Mapping[str, object]]
"""A table, chain or rule of libnftables-json(5): {kind: properties}."""


class NftError(FlanneldError):
    """libnftables or the kernel refused a command; nothing of its transaction was done."""


class NftMissing(NftError):
    """This host has no libnftables, no nf_tables in its kernel, or does not let us use them."""


class Nft:
    """A libnftables context, bound to the network namespace it was made in."""

    def __init__(self) -> None:
        library = _load_library()
        try:  # first, for nft_ctx_new() ends the whole process when the kernel has no netfilter netlink
            self._netlink = Netlink(NETLINK_NETFILTER)
            weakref.finalize(self, self._netlink.close)
            self._netlink.get("the question for nftables' generation", _request(NFT_MSG_GETGEN))
        except (OSError, KernelError) as error:
            raise NftMissing(f"nftables cannot be used: {error}") from error
        self._context = library.nft_ctx_new(0)
        weakref.finalize(self, library.nft_ctx_free, self._context)
        library.nft_ctx_output_set_flags(self._context, NFT_CTX_OUTPUT_JSON)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)
        self._library = library
        self._turn = threading.Lock()  # neither part serves two threads, and a caller that was cancelled may still be in one

    def run(self, commands: Sequence[Command]) -> list[Object]:
        """Do the commands as one transaction and return the objects listed; raises NftError.

        Never list all tables, nor one that has flags. In 1.0.6 the first reads every rule of the host, and both print a flag's
        name after freeing it.
        """
        request = json.dumps({"nftables": commands}).encode()
        with self._turn:
            status = self._library.nft_run_cmd_from_buffer(self._context, request)
            output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
            errors: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if status != 0:
            raise NftError(_reason(errors.decode(errors="replace")))
        listed: list[Object] = json.loads(output)["nftables"] if output else []
        return [item for item in listed if "metainfo" not in item]

    def table_flags(self, family: Family, name: str) -> int | None:
        """NFT_TABLE_F_* of a table, None when there is none of that name; raises NftError."""
        question = _request(NFT_MSG_GETTABLE, family, text(NFTA_TABLE, name))
        with self._turn:
            try:
                table = self._netlink.get(f"the question for table {name}", question)
            except KernelError as error:
                if error.errno == errno.ENOENT:
                    return None
                raise NftError(str(error)) from error
        return int.from_bytes(attributes(table.body, NFGENMSG_SIZE)[NFTA_TABLE_FLAGS], "big")


def _request(kind: int, family: Family = 4, *named: bytes) -> Message:
    return Message(NFNL_SUBSYS_NFTABLES << 8 | kind, bytes([NFPROTO[family], 0, 0, 0]) + b"".join(named))


def _reason(errors: str) -> str:
    """The words of the first error, without the place before them, which in JSON says nothing."""
    first = next(iter(errors.splitlines()), "unknown error")
    return first.partition("Error: ")[2] or first


@cache
def _load_library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NftMissing(f"{LIBRARY} is not installed (Debian package libnftables1)") from error
    context, buffer = ctypes.c_void_p, ctypes.c_char_p
    library.nft_ctx_new.restype, library.nft_ctx_new.argtypes = context, [ctypes.c_uint32]
    library.nft_ctx_free.restype, library.nft_ctx_free.argtypes = None, [context]
    library.nft_ctx_output_set_flags.restype, library.nft_ctx_output_set_flags.argtypes = None, [context, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [context, buffer]
    for function in (library.nft_ctx_buffer_output, library.nft_ctx_buffer_error):
        function.argtypes = [context]
    for function in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
        function.restype, function.argtypes = buffer, [context]
    return library


@dataclass(frozen=True, slots=True)
class NftChange:
    """A table, chain or rule that came or went."""

    family: Family
    table: str
    chain: str
    """Empty for a table."""
    gone: bool


def decode_changes(notice: bytes) -> Iterator[NftChange]:
    """The changes to IPv4 and IPv6 tables in what one receive returned; sets, generations and other families are passed over."""
    families = {number: family for family, number in NFPROTO.items()}
    for message in split_messages(notice):
        subsystem, kind = divmod(message.kind, 256)
        family = families.get(message.body[0]) if message.body else None
        if subsystem != NFNL_SUBSYS_NFTABLES or family is None or kind not in NFTA_CHAIN:
            continue
        named = attributes(message.body, NFGENMSG_SIZE)
        gone = kind in (NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE)
        yield NftChange(family, string(named.get(NFTA_TABLE)), string(named.get(NFTA_CHAIN[kind])), gone)


def nft_changes(concerns_us: Callable[[NftChange], bool]) -> AsyncGenerator[None, None]:
    """`nft_notices` of changes that concern us."""
    return nft_notices(lambda notice: any(map(concerns_us, decode_changes(notice))))


async def nft_notices(concerns_us: Callable[[bytes], bool]) -> AsyncGenerator[None, None]:
    """Yield at once and then after notices that concern us, a burst as one; never ends. Raises NftMissing at the start.

    A notice is what one receive returned. Changes made while the consumer is busy are reported when it comes back. The namespace is
    the one of the first step.
    """
    with _netfilter_socket() as notices:
        notices.bind((0, 0))  # without a port of its own it would hear nothing
        notices.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        while True:
            yield
            await _concern(notices, concerns_us)
            await asyncio.sleep(SETTLE_S)
            _drop_pending(notices)


async def _concern(notices: socket.socket, concerns_us: Callable[[bytes], bool]) -> None:
    """Return after a notice that concerns us, or that may have: the kernel dropped some (ENOBUFS)."""
    while True:
        try:
            notice = await asyncio.get_running_loop().sock_recv(notices, NOTICE_BYTES)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return
            raise
        if concerns_us(notice):
            return


def _drop_pending(notices: socket.socket) -> None:
    """The consumer is about to read the present, which these notices lead up to."""
    while True:
        try:
            notices.recv(NOTICE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def _netfilter_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
    except OSError as error:
        raise NftMissing(f"the kernel offers no nftables: {error.strerror}") from error
