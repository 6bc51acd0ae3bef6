"""Which of the kernel's notices a netlink socket takes, decided in the kernel: a classic BPF program; must not know what they say.

A host where pods come and go sends dozens of notices a pod, of which a daemon that keeps routes needs none: filtered here they cost
nothing, and wake nobody. Source: linux/filter.h, Documentation/networking/filter.rst; networks' byte order is what it loads in.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Collection

SO_ATTACH_FILTER = 26
LD_HALF, LD_WORD, JUMP_EQUAL, RETURN = 0x28, 0x20, 0x15, 0x06
"""BPF_LD|BPF_H|BPF_ABS, BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K."""
WHOLE, NOTHING = 0xFFFF_FFFF, 0
"""How many bytes of the message are taken."""
LD_BYTE = 0x30
"""BPF_LD|BPF_B|BPF_ABS."""
KIND_AT, INDEX_AT, PROTOCOL_AT = 4, 20, 21
"""nlmsg_type; the interface's index, which stands at the same place of ifinfomsg, ifaddrmsg and ndmsg; rtm_protocol of rtmsg."""
MOST_DEVICES = 200
"""A jump leads no further than 255 instructions."""

INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter: code, jump if true, jump if false, constant."""


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]  # as ctypes wants it


def about_devices(kinds: Collection[int], devices: Collection[int], routes: Collection[int] = (), protocol: int = 0) -> bytes:
    """Of messages of these kinds, only those about these interfaces (at most MOST_DEVICES); of `routes`, none of that protocol.

    All messages of other kinds.
    """
    by_route = [_instruction(LD_BYTE, PROTOCOL_AT), _instruction(JUMP_EQUAL, protocol, 1), _WHOLE, _NOTHING]
    by_device = [_instruction(LD_WORD, INDEX_AT)]
    by_device += [_instruction(JUMP_EQUAL, _loaded(device, 4), len(devices) - place) for place, device in enumerate(devices)]
    by_device += [_NOTHING, _WHOLE]
    program = [_instruction(LD_HALF, KIND_AT)]
    for place, kind in enumerate((*routes, *kinds)):
        left = len(routes) + len(kinds) - place  # of these comparisons, this one among them, and then the verdict on the rest
        program.append(_instruction(JUMP_EQUAL, _loaded(kind, 2), left + (0 if place < len(routes) else len(by_route))))
    return b"".join((*program, _WHOLE, *by_route, *by_device))


def _instruction(code: int, constant: int, forward: int = 0) -> bytes:
    """One instruction; a comparison that holds goes so many forward, one that does not goes on."""
    return INSTRUCTION.pack(code, forward, 0, constant)


_WHOLE, _NOTHING = _instruction(RETURN, WHOLE), _instruction(RETURN, NOTHING)


def _loaded(number: int, size: int) -> int:
    """What a number in host order looks like to a program that takes it for network order."""
    return int.from_bytes(number.to_bytes(size, sys.byteorder), "big")


def attach(sock: socket.socket, instructions: bytes) -> None:
    """Filter what the socket receives from now on, in the place of any filter before; raises OSError."""
    program = _Program(len(instructions) // INSTRUCTION.size, instructions)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(program))
