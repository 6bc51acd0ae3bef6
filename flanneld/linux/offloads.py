"""What an interface leaves to its hardware, or to who receives from it: ethtool's switches; must not know why.

Source: linux/ethtool.h, linux/sockios.h. Each function raises KernelError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from array import array
from enum import IntEnum

from flanneld.kernel import KernelError
from flanneld.linux.netns import run_in

SIOCETHTOOL = 0x8946
SIOCGSKNS = 0x894C
IFREQ = struct.Struct("16sP16x")
"""linux/if.h: the name, then a pointer in a union of 24 bytes."""


class Offload(IntEnum):
    """Commands that read a switch; the next number sets it."""

    TX_CHECKSUM = 0x16
    """Send packets whose checksums are not finished."""
    TSO = 0x1E
    """Send TCP's super-packets."""
    GRO = 0x2B
    """Merge what is received to super-packets."""


def socket_beside(descriptor: int) -> socket.socket:
    """A socket for the functions here, in the network namespace of another one (ioctl SIOCGSKNS); raises KernelError."""
    try:
        namespace = fcntl.ioctl(descriptor, SIOCGSKNS)
        try:
            return run_in(namespace, socket.socket, socket.AF_UNIX, socket.SOCK_DGRAM)
        finally:
            os.close(namespace)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, "to look into a socket's namespace", str(error.strerror).lower()) from error


def offload(any_socket: socket.socket, name: str, which: Offload) -> bool:
    """Whether the interface's switch is on."""
    return bool(_ethtool(any_socket, name, which, 0))


def set_offload(any_socket: socket.socket, name: str, offload: Offload, on: bool) -> bool:
    """Set the interface's switch, in the namespace of the socket; True if it was set otherwise."""
    if bool(_ethtool(any_socket, name, offload, 0)) == on:
        return False
    _ethtool(any_socket, name, offload + 1, on)
    return True


def _ethtool(any_socket: socket.socket, name: str, command: int, value: int) -> int:
    """struct ethtool_value: u32 command, u32 value."""
    request = array("I", (command, value))
    try:
        fcntl.ioctl(any_socket, SIOCETHTOOL, IFREQ.pack(name.encode(), request.buffer_info()[0]))
    except OSError as error:
        raise KernelError(
            error.errno or errno.EIO, f"ethtool command {command:#x} on {name}", str(error.strerror).lower()
        ) from error
    return request[1]
