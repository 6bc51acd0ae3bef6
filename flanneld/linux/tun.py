"""TUN and TAP devices: a descriptor on one side, a network interface on the other (kernel Documentation/networking/tuntap.rst).

Packets have a vnet header before them (`flanneld.wire.vnet`), and the kernel hands over and takes super-packets of up to 64 KB.
"""

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
_TUNSETOFFLOAD = 0x400454D0  # _IOW('T', 208, unsigned int)
_F_CSUM, _F_TSO4, _F_TSO6, _F_TSO_ECN, _F_USO4, _F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40  # TUN_F_*; USO since 6.2
_IFF_TUN, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")  # linux/if.h: the name, then the flags in a union of 24 bytes


@dataclass(frozen=True, slots=True)
class TunDevice:
    """An open TUN or TAP: what `fd` reads and writes is a vnet header and one packet or frame. Closing it removes the interface."""

    fd: int
    """Non-blocking. Reads fail with EBADFD once somebody deleted the interface, writes with EIO while it is down."""
    name: str
    index: int
    takes_tcp: bool = False
    """Super-packets of TCP, and unfinished checksums."""
    takes_udp: bool = False
    """Super-packets of UDP."""

    def close(self) -> None:
        os.close(self.fd)


def recover_tun(fd: int, *, tap: bool = False) -> TunDevice | None:
    """The TUN, or TAP, that this descriptor has open, as another process left it.

    None when its interface is no more, or is none as `open_tun` makes them (another version's); then `fd` is closed.
    """
    try:
        raw_name, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, _IFREQ.pack(b"", 0)))
        # _IFF_NO_PI says nothing here: the kernel sets the same bit when no filter is attached.
        if flags & (_IFF_TUN | _IFF_TAP | _IFF_VNET_HDR) == _kind(tap) | _IFF_VNET_HDR:
            os.set_blocking(fd, False)
            return _offloading(fd, raw_name)
    except OSError:
        pass  # deleted, moved to another namespace, or no tun at all
    os.close(fd)
    return None


def open_tun(name: str, *, tap: bool = False) -> TunDevice:
    """Make a TUN or TAP in the current network namespace, down, without addresses; a `%d` in the name takes the first free number.

    Raises KernelError: ENOENT without /dev/net/tun, EPERM without CAP_NET_ADMIN, EBUSY when the name is another's.
    """
    try:
        fd = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = f"{str(error.strerror).lower()}, expected the tun driver there"
        raise KernelError(error.errno or errno.EIO, f"to open {_CLONE_DEVICE}", why) from error
    try:
        request = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _kind(tap) | _IFF_NO_PI | _IFF_VNET_HDR))
        return _offloading(fd, request[:16])
    except OSError as error:
        os.close(fd)
        raise KernelError(error.errno or errno.EIO, f"tun device {name}", str(error.strerror).lower()) from error


def _kind(tap: bool) -> int:
    return _IFF_TAP if tap else _IFF_TUN


def _offloading(fd: int, raw_name: bytes) -> TunDevice:
    """The device with as much left to us as this kernel can leave; raises OSError when it is gone."""
    name = raw_name.rstrip(b"\0").decode()
    index = socket.if_nametoindex(name)
    tcp = _F_CSUM | _F_TSO4 | _F_TSO6 | _F_TSO_ECN
    for offloads in (tcp | _F_USO4 | _F_USO6, tcp):
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return TunDevice(fd, name, index, takes_tcp=True, takes_udp=offloads != tcp)
    return TunDevice(fd, name, index)
