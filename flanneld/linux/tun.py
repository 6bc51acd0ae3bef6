"""TUN devices: a file descriptor on one side, a network interface on the other (kernel Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from flanneld.kernel import KernelError

_CLONE_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h: _IOW('T', 202, int)
_TUNGETIFF = 0x800454D2  # _IOR('T', 210, unsigned int)
_IFF_TUN, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")  # linux/if.h: the name, then the flags in a union of 24 bytes


@dataclass(frozen=True, slots=True)
class TunDevice:
    """An open TUN: reads and writes of `fd` are one bare IP packet each. Closing it removes the interface."""

    fd: int
    """Non-blocking. Reads fail with EBADFD once somebody deleted the interface, writes with EIO while it is down."""
    name: str
    index: int

    def close(self) -> None:
        os.close(self.fd)


def recover_tun(fd: int) -> TunDevice | None:
    """The TUN that this descriptor has open, as another process left it.

    None when its interface is no more, or is none as `open_tun` makes them (another version's); then `fd` is closed.
    """
    try:
        raw_name, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, _IFREQ.pack(b"", 0)))
        # _IFF_NO_PI says nothing here: the kernel sets the same bit when no filter is attached.
        if flags & (_IFF_TUN | _IFF_TAP | _IFF_VNET_HDR) == _IFF_TUN:
            name = raw_name.rstrip(b"\0").decode()
            found = TunDevice(fd, name, socket.if_nametoindex(name))
            os.set_blocking(fd, False)
            return found
    except OSError:
        pass  # deleted, moved to another namespace, or no tun at all
    os.close(fd)
    return None


def open_tun(name: str) -> TunDevice:
    """Make a TUN in the current network namespace, down and without addresses; a `%d` in the name takes the first free number.

    Raises KernelError: ENOENT without /dev/net/tun, EPERM without CAP_NET_ADMIN, EBUSY when the name is another's.
    """
    try:
        fd = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = f"{str(error.strerror).lower()}, expected the tun driver there"
        raise KernelError(error.errno or errno.EIO, f"to open {_CLONE_DEVICE}", why) from error
    try:
        request = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI))
        given = request[:16].rstrip(b"\0").decode()
        return TunDevice(fd, given, socket.if_nametoindex(given))
    except OSError as error:
        os.close(fd)
        raise KernelError(error.errno or errno.EIO, f"tun device {name}", str(error.strerror).lower()) from error
