"""Traffic control: token bucket queues, the redirection of what an interface receives, and programs; must not know why.

Each function raises KernelError when the kernel refuses. Source: linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h,
net/sched/sch_tbf.c, net/sched/cls_bpf.c. All integers are in host order:

    tcmsg         u8 family, 3 unused, i32 ifindex, u32 handle, u32 parent, u32 info
    tc_ratespec   u8 cell_log, u8 linklayer, u16 overhead, i16 cell_align, u16 mpu, u32 rate
    tc_tbf_qopt   tc_ratespec rate, tc_ratespec peakrate, u32 limit, u32 buffer, u32 mtu
    tc_u32_sel    u8 flags, offshift, nkeys, unused, u16 offmask, u16 off, i16 offoff, i16 hoff, u32 hmask, then keys of
                  u32 mask, u32 value, i32 offset, i32 offmask
    tc_mirred     u32 index, u32 capab, i32 action, i32 refcnt, i32 bindcnt, i32 eaction, u32 ifindex
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from flanneld.kernel import KernelError
from flanneld.linux.message import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    attribute,
    attributes,
    integer,
    nested,
    string,
    text,
    u32,
)
from flanneld.linux.netlink import Netlink

NLM_F_ECHO = 0x8
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
TC_H_ROOT, TC_H_INGRESS = 0xFFFF_FFFF, 0xFFFF_FFF1
TC_H_OF_TBF, TC_H_OF_INGRESS = 0x0001_0000, 0xFFFF_0000
"""Handles: 1: and, which the kernel wants so, ffff:."""
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_LINKLAYER_ETHERNET = 1
"""The kernel computes by itself how long a packet takes; of another link layer it wants a table of 256 times (TCA_TBF_RTAB)."""
TCA_U32_SEL, TCA_U32_ACT, TC_U32_TERMINAL = 5, 7, 1
TCA_MATCHALL_ACT = 2
TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_MIRRED_PARMS = 1, 2, 2
TC_ACT_STOLEN, TCA_EGRESS_REDIR = 4, 1
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID = 6, 7, 8, 11
TCA_BPF_FLAG_ACT_DIRECT = 1
"""What the program returns is what becomes of the packet; TC_ACT_UNSPEC: ask the next filter."""
ETH_P_IP, ETH_P_ALL = 0x0800, 3
FIRST = 1
"""The filter's priority, and the place of its action."""

TCMSG = struct.Struct("=BxxxiIII")
RATESPEC = struct.Struct("=BBHhHI")
TBF = struct.Struct(f"={RATESPEC.size}s{RATESPEC.size}sIII")
U32_SEL = struct.Struct("=BBBxHHhhI")
U32_KEY = struct.Struct("=IIii")
MIRRED = struct.Struct("=IIiiiiI")

U32_MAX = 2**32 - 1
TICK_NS = 64
"""The kernel's unit of time in these messages (PSCHED_SHIFT of net/pkt_sched.h)."""
LATENCY_S = 0.025
"""How long a packet may wait before the queue is full: the reference's."""
ABSENT = (errno.ENOENT, errno.EINVAL, errno.ENODEV)
"""How the kernel says that there is no such queue, or no such interface."""
CLASSIFIERS = ("u32", "matchall")
"""What can match every packet; kernels have one or the other, or both."""


class Side(IntEnum):
    """Where filters see an interface's packets (TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) and so on)."""

    INGRESS = 0xFFFF_FFF2
    EGRESS = 0xFFFF_FFF3


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one program, which sees IPv4 packets there, but none with a VLAN tag."""

    index: int
    """The interface."""
    side: Side
    priority: int
    """Filters of lower numbers see packets first."""
    handle: int

    def encode(self) -> bytes:
        """The fixed header of messages about it."""
        info = self.priority << 16 | socket.htons(ETH_P_IP)
        return TCMSG.pack(socket.AF_UNSPEC, self.index, self.handle, self.side, info)

    def __str__(self) -> str:
        return f"program for {self.side.name.lower()} of link {self.index}"


@dataclass(frozen=True, slots=True)
class Attached:
    """A program at its place."""

    name: str
    """What it was called when it was put there."""
    program: int
    """The kernel's number for it, which no other program ever had."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A queue that lets `rate` bytes a second pass, and `burst` bytes at once when it was idle."""

    rate: int
    burst: int

    @property
    def limit(self) -> int:
        """Bytes that may wait."""
        return min(int(self.rate * LATENCY_S) + self.burst, U32_MAX)


def add_token_bucket(nl: Netlink, index: int, bucket: TokenBucket) -> None:
    """Make it the interface's queue; refused (EEXIST) when somebody has put another there."""
    request = Message(RTM_NEWQDISC, encode_token_bucket(index, bucket), NLM_F_CREATE | NLM_F_EXCL)
    nl.change(f"token bucket on link {index}", request)


def encode_token_bucket(index: int, bucket: TokenBucket) -> bytes:
    """The body of the request."""
    # A rate beyond 32 bits stands in an attribute of its own, and all ones in its place.
    rate = RATESPEC.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(bucket.rate, U32_MAX))
    ticks = min(bucket.burst * 10**9 // bucket.rate // TICK_NS, U32_MAX)
    options = [attribute(TCA_TBF_PARMS, TBF.pack(rate, bytes(RATESPEC.size), bucket.limit, ticks, 0))]
    # In bytes, since 4 GB at a low rate are more ticks than there is room for.
    options += [u32(TCA_TBF_BURST, bucket.burst)]
    options += [attribute(TCA_TBF_RATE64, struct.pack("=Q", bucket.rate))] if bucket.rate > U32_MAX else []
    header = TCMSG.pack(socket.AF_UNSPEC, index, TC_H_OF_TBF, TC_H_ROOT, 0)
    return header + text(TCA_KIND, "tbf") + nested(TCA_OPTIONS, *options)


def decode_token_bucket(message: Message) -> TokenBucket | None:
    """The queue, if it is one that lasts 25 ms, its burst computed from that; None for any other kind."""
    found = attributes(message.body, TCMSG.size)
    if string(found.get(TCA_KIND)) != "tbf":
        return None
    options = attributes(found[TCA_OPTIONS])
    spec, _peak, limit, _ticks, _mtu = TBF.unpack_from(options[TCA_TBF_PARMS])
    rate = integer(options.get(TCA_TBF_RATE64)) or RATESPEC.unpack(spec)[-1]
    return TokenBucket(rate, limit - int(rate * LATENCY_S))


def token_bucket(nl: Netlink, index: int) -> TokenBucket | None:
    """The interface's queue, None when it is of another kind."""
    # Linux answers this only with an echo, and of its default queue tells nothing even then: just the acknowledgement, of errno 0.
    request = Message(RTM_GETQDISC, TCMSG.pack(socket.AF_UNSPEC, index, 0, TC_H_ROOT, 0), NLM_F_ACK | NLM_F_ECHO)
    try:
        return decode_token_bucket(nl.get(f"queue of link {index}", request))
    except KernelError as error:
        if error.errno in (0, *ABSENT):
            return None
        raise


def redirect_received(nl: Netlink, index: int, to: int) -> None:
    """Send all that interface `index` receives through the queue of interface `to`, after which it counts as received.

    Refused (EEXIST) when somebody else filters what it receives.
    """
    header = TCMSG.pack(socket.AF_UNSPEC, index, TC_H_OF_INGRESS, TC_H_INGRESS, 0)
    nl.change(
        f"ingress filters of link {index}", Message(RTM_NEWQDISC, header + text(TCA_KIND, "ingress"), NLM_F_CREATE | NLM_F_EXCL)
    )
    what = f"redirection of link {index} to link {to}"
    outcomes = []
    for classifier in CLASSIFIERS:
        (outcome,) = nl.transact([Message(RTM_NEWTFILTER, encode_redirection(classifier, index, to), NLM_F_CREATE | NLM_F_EXCL)])
        if not outcome:
            return
        outcomes.append(outcome)
        if outcome != errno.ENOENT:
            break
    remove_ingress(nl, index)
    raise KernelError(int(outcomes[-1]), what, outcomes[-1].why)


def encode_redirection(classifier: str, index: int, to: int) -> bytes:
    """The body of the request: a filter of every packet, whose action sends it to the other interface."""
    parms = MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to)
    action = nested(FIRST, text(TCA_ACT_KIND, "mirred"), nested(TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, parms)))
    if classifier == "u32":
        # One key whose mask is 0: it matches whatever there is.
        everything = U32_SEL.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + U32_KEY.pack(0, 0, 0, 0)
        options = nested(TCA_OPTIONS, attribute(TCA_U32_SEL, everything), nested(TCA_U32_ACT, action))
    else:
        options = nested(TCA_OPTIONS, nested(TCA_MATCHALL_ACT, action))
    info = FIRST << 16 | socket.htons(ETH_P_ALL)
    header = TCMSG.pack(socket.AF_UNSPEC, index, 0, TC_H_OF_INGRESS, info)
    return header + text(TCA_KIND, classifier) + options


def redirections(nl: Netlink, index: int) -> frozenset[int]:
    """The interfaces to which our filters send what this one receives."""
    request = Message(RTM_GETTFILTER, TCMSG.pack(socket.AF_UNSPEC, index, 0, TC_H_OF_INGRESS, 0))
    return frozenset(to for message in nl.dump(request) if (to := decode_redirection(message)))


def decode_redirection(message: Message) -> int:
    """Where the filter's first action sends packets to; 0: it is of another kind."""
    found = attributes(message.body, TCMSG.size)
    place = {"u32": TCA_U32_ACT, "matchall": TCA_MATCHALL_ACT}.get(string(found.get(TCA_KIND)), 0)
    actions = attributes(attributes(found.get(TCA_OPTIONS, b"")).get(place, b""))
    action = attributes(actions.get(FIRST, b""))
    parms = attributes(action.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS)
    return MIRRED.unpack_from(parms)[-1] if parms and string(action.get(TCA_ACT_KIND)) == "mirred" else 0


def ensure_filters(nl: Netlink, index: int, *, egress: bool) -> bool:
    """Let the interface have filters of what it receives, and with `egress` of what it sends; False: it could have some already."""
    request = Message(
        RTM_NEWQDISC,
        TCMSG.pack(socket.AF_UNSPEC, index, TC_H_OF_INGRESS, TC_H_INGRESS, 0) + text(TCA_KIND, "clsact" if egress else "ingress"),
        NLM_F_CREATE | NLM_F_EXCL,
    )
    (outcome,) = nl.transact([request])
    if outcome and outcome != errno.EEXIST:
        raise KernelError(int(outcome), f"filters of link {index}", outcome.why)
    return not outcome


def attach_program(nl: Netlink, place: Place, program: int, name: str) -> None:
    """Run the program, an open descriptor, on what passes there, in the place of the one before; no packet goes by in between."""
    options = (u32(TCA_BPF_FD, program), text(TCA_BPF_NAME, name), u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT))
    body = place.encode() + text(TCA_KIND, "bpf") + nested(TCA_OPTIONS, *options)
    nl.change(place, Message(RTM_NEWTFILTER, body, NLM_F_CREATE))


def attached_program(nl: Netlink, place: Place) -> Attached | None:
    """The program there; None when there is none, or another kind of filter, or no such interface."""
    try:
        found = attributes(nl.get(place, Message(RTM_GETTFILTER, place.encode())).body, TCMSG.size)
    except KernelError as error:
        if error.errno in ABSENT:
            return None
        raise
    options = attributes(found.get(TCA_OPTIONS, b""))
    if string(found.get(TCA_KIND)) != "bpf":
        return None
    return Attached(string(options.get(TCA_BPF_NAME)), integer(options.get(TCA_BPF_ID)))


def detach_program(nl: Netlink, place: Place) -> None:
    """Take the filter out; nothing happens when there is none, or no such interface."""
    (outcome,) = nl.transact([Message(RTM_DELTFILTER, place.encode())])
    if outcome and outcome not in ABSENT:
        raise KernelError(int(outcome), f"removal of the {place}", outcome.why)


def has_filters(nl: Netlink, index: int) -> bool:
    """Whether anybody filters what passes the interface, on either side."""
    requests = (Message(RTM_GETTFILTER, TCMSG.pack(socket.AF_UNSPEC, index, 0, side, 0)) for side in Side)
    return any(nl.dump(request) for request in requests)


def remove_token_bucket(nl: Netlink, index: int) -> None:
    """Give the interface its usual queue back; nothing happens when it has it, or is not there."""
    if token_bucket(nl, index) is not None:
        _remove(nl, index, TC_H_ROOT)


def remove_ingress(nl: Netlink, index: int) -> None:
    """Let the interface receive as usual again, and without clsact also send; nothing happens when it does, or is not there."""
    _remove(nl, index, TC_H_INGRESS)


def _remove(nl: Netlink, index: int, parent: int) -> None:
    request = Message(RTM_DELQDISC, TCMSG.pack(socket.AF_UNSPEC, index, 0, parent, 0))
    (outcome,) = nl.transact([request])
    if outcome and outcome not in ABSENT:
        raise KernelError(int(outcome), f"removal of queue {parent:#x} from link {index}", outcome.why)
