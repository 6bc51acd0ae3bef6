"""The programs of tunnel.bpf.c at work between one TUN and one uplink: loaded, attached, told the peers; must not know leases.

While it carries packets, the backend's own socket and TUN get what is left: see `KernelPath`.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from flanneld import FlanneldError
from flanneld.backend import BackendError
from flanneld.backends.udp.ebpf.cleaner import Cleaner, ensure_cleaner, is_virtual, remove_cleaner
from flanneld.backends.udp.ebpf.pair import clsact_is_ours, ensure_pair, note_clsact, remove_pair
from flanneld.backends.udp.ebpf.table import Table
from flanneld.kernel import KernelError
from flanneld.linux import rtnetlink as rt
from flanneld.linux import tc
from flanneld.linux.bpf import BpfObject
from flanneld.linux.links import links
from flanneld.linux.lock import hold
from flanneld.linux.message import Message
from flanneld.linux.netlink import Netlink
from flanneld.linux.xfrm import has_policies

OBJECT = Path(__file__).with_name("tunnel.bpf.o")
PRIORITY = 0x7A27
"""Of our filters; their handle is the uplink. Nobody else is known to use the number; filters of lower ones see packets first."""
FROM_TUN, FROM_UPLINK, FROM_CUTTER, FROM_MERGER, FROM_CLEANER = (
    "from_tun",
    "from_uplink",
    "from_cutter",
    "from_merger",
    "from_cleaner",
)
ARPHRD_ETHER = 1

SETTINGS = struct.Struct("=4s2sBB3I2sHI")
"""struct settings: address, port, active, strict; indexes of the TUN and the pair's ends; the cleaner's port, and its secrets.

Ports and address are in network order.
"""
ONLY = bytes(4)
"""The one key of that map."""
PREFIX, COUNTER = struct.Struct("=I4s"), struct.Struct("=Q")
COUNTERS = ("sent", "received", "left_to_tun", "left_to_socket", "forged", "send_failed")
"""enum counter."""
UNKNOWN = bytes(12)
"""The rest of struct sender: of a new peer it is not known whether a kernel takes what we send; its first datagram tells."""


class KernelPath:
    """Packets of one TUN to and from peers, without user space. What it does not do falls through, unchanged, to TUN and socket:
    no peer, time to live at its end, a path too narrow, fragments of datagrams, IP options and whatever else is malformed or rare.

    Until `reach` was called everything falls through. The socket must not ask for UDP_GRO, which would merge datagrams before they
    get here, nor for SO_NO_CHECK, by which peers would take it for a kernel. A TUN that is made anew needs a path made anew.

    Making one loads and attaches, in the place of what a killed daemon has left for these interfaces. Raises BackendError (no
    libbpf, IPsec policies, an uplink that is not Ethernet or another daemon's already), KernelError; nothing stays behind then.
    """

    def __init__(self, netlink: Netlink, uplink_index: int, tun_index: int, address: IPv4Address, port: int, strict: bool) -> None:
        self._netlink = netlink
        self._uplink = uplink_index
        self._tun = tun_index
        self._fixed = address.packed, port.to_bytes(2, "big"), strict
        self._active = False
        self._ids: dict[str, int] = {}
        _check_ipsec()
        _check_hardware(netlink, uplink_index)
        with ExitStack() as undo:
            try:
                undo.enter_context(hold(f"udp in the kernel on link {uplink_index}", f"udp in the kernel on link {uplink_index}"))
                self._object = undo.enter_context(_load())
            except KernelError:
                raise
            except FlanneldError as error:
                raise BackendError(f"udp in the kernel: {error}") from error
            self._settings, self._counters = (self._object.map(name) for name in ("settings", "counters"))
            self._targets, self._sources = (Table(self._object.map(name)) for name in ("targets", "sources"))
            self._socket = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            undo.callback(self._remove)
            self._secrets = 1 + secrets.randbelow(0xFFFF), secrets.randbelow(1 << 24)
            self._pair, _ = ensure_pair(netlink, self._socket, uplink_index)
            self._wants_cleaner = is_virtual(netlink, uplink_index)
            self._cleaner, _ = self._ensure_cleaner()
            self._configure()
            for name in self._places():
                self._attach(name)
            self._undo = undo.pop_all()

    def reach(self, targets: Mapping[IPv4Network, IPv4Address], sources: Mapping[IPv4Network, IPv4Address]) -> None:
        """From now on encapsulate to exactly these targets, and take inner sources from exactly these peers. Raises KernelError.

        What is new goes in before what is stale goes out; a longer prefix wins. Who is in `sources` alone is not sent to.
        """
        peers, senders = _encoded(targets), _encoded(sources, UNKNOWN)
        self._sources.add(senders)
        self._targets.add(peers)
        self._targets.narrow(peers)
        self._sources.narrow(senders)
        if not self._active:
            self._active = True
            self._configure()

    def restore(self) -> bool:
        """Attach and make again what somebody has taken away; True if there was anything.

        Raises KernelError (ENODEV: the TUN is gone), BackendError (IPsec policies have come): then close it.
        """
        _check_ipsec()
        pair, repaired = ensure_pair(self._netlink, self._socket, self._uplink)
        cleaner, made = self._ensure_cleaner()
        if (pair, cleaner) != (self._pair, self._cleaner):
            self._pair, self._cleaner = pair, cleaner
            self._configure()
        repaired |= made
        for name, place in self._places().items():
            found = tc.attached_program(self._netlink, place)
            if found is None or found.program != self._ids[name]:
                self._attach(name)
                repaired = True
        return repaired

    def counters(self) -> dict[str, int]:
        """How many packets were sent and received, left to the readers of TUN and socket, or dropped, since this was made.

        forged: the inner source is not the peer's; send_failed: out of memory, or no way to the peer any more.
        """
        found = {}
        for number, name in enumerate(COUNTERS):
            values = self._counters.lookup_per_cpu(struct.pack("=I", number))
            found[name] = sum(COUNTER.unpack(value)[0] for value in values)
        return found

    def close(self) -> None:
        """Detach and remove all that this has made; a second call does nothing. Raises KernelError."""
        self._undo.close()

    def _ensure_cleaner(self) -> tuple[Cleaner | None, bool]:
        return ensure_cleaner(self._netlink, self._uplink) if self._wants_cleaner else (None, False)

    def _places(self) -> dict[str, tc.Place]:
        """Our own devices first: packets are sent there as soon as the others run."""
        found = {FROM_CLEANER: self._place(self._cleaner.index, tc.Side.INGRESS)} if self._cleaner else {}
        return found | {
            FROM_MERGER: self._place(self._pair.b, tc.Side.INGRESS),
            FROM_CUTTER: self._place(self._pair.a, tc.Side.INGRESS),
            FROM_TUN: self._place(self._tun, tc.Side.EGRESS),
            FROM_UPLINK: self._place(self._uplink, tc.Side.INGRESS),
        }

    def _place(self, index: int, side: tc.Side) -> tc.Place:
        return tc.Place(index, side, PRIORITY, self._uplink)

    def _attach(self, name: str) -> None:
        place = self._places()[name]
        # What nobody filters on its way out of our own devices takes a shorter way.
        both = place.index in (self._tun, self._uplink)
        if tc.ensure_filters(self._netlink, place.index, egress=both) and place.index == self._uplink:
            note_clsact(self._netlink, self._pair)
        tc.attach_program(self._netlink, place, self._object.program(name), _title(name))
        found = tc.attached_program(self._netlink, place)
        self._ids[name] = found.program if found is not None else 0

    def _configure(self) -> None:
        address, port, strict = self._fixed
        cleaner_port = (self._cleaner.port if self._cleaner else 0).to_bytes(2, "big")
        indexes = self._tun, self._pair.a, self._pair.b
        self._settings.update({ONLY: SETTINGS.pack(address, port, self._active, strict, *indexes, cleaner_port, *self._secrets)})

    def _remove(self) -> None:
        _detach(self._netlink, FROM_TUN, self._place(self._tun, tc.Side.EGRESS))
        _remove_empty_clsact(self._netlink, self._tun)
        _leave_uplink(self._netlink, self._uplink)


def remove_leftovers(netlink: Netlink, uplink_index: int) -> None:
    """Take away what a killed daemon has left of this on the uplink, and on a TUN that lasted. Raises KernelError.

    Needs no libbpf. Must not be called beside a path that works.
    """
    for found in links(netlink):
        place = tc.Place(found.index, tc.Side.EGRESS, PRIORITY, uplink_index)
        if found.kind == "tun" and _detach(netlink, FROM_TUN, place):
            _remove_empty_clsact(netlink, found.index)
    _leave_uplink(netlink, uplink_index)


def _leave_uplink(netlink: Netlink, uplink: int) -> None:
    _detach(netlink, FROM_UPLINK, tc.Place(uplink, tc.Side.INGRESS, PRIORITY, uplink))
    if clsact_is_ours(netlink, uplink):
        _remove_empty_clsact(netlink, uplink)
    remove_cleaner(netlink, uplink)
    remove_pair(netlink, uplink)


def _detach(netlink: Netlink, name: str, place: tc.Place) -> bool:
    """Take our filter out; False: there was none."""
    found = tc.attached_program(netlink, place)
    if found is None or found.name != _title(name):
        return False
    tc.detach_program(netlink, place)
    return True


def _remove_empty_clsact(netlink: Netlink, index: int) -> None:
    if not tc.has_filters(netlink, index):
        tc.remove_ingress(netlink, index)


def _title(program: str) -> str:
    """What `tc filter show` calls it."""
    return f"tartan-udp:{program}"


def _encoded(table: Mapping[IPv4Network, IPv4Address], rest: bytes = b"") -> dict[bytes, bytes]:
    """struct prefix -> the peer's address, and the rest of the value."""
    return {PREFIX.pack(net.prefixlen, net.network_address.packed): peer.packed + rest for net, peer in table.items()}


def _load() -> BpfObject:
    return BpfObject(OBJECT.read_bytes())


def _check_ipsec() -> None:
    """Packets that programs send pass no policy of this host: what ought to be encrypted would go as it is. Raises BackendError."""
    if has_policies():
        raise BackendError("udp in the kernel: this host has ipsec policies, which it would go around")


def _check_hardware(netlink: Netlink, index: int) -> None:
    message = netlink.get(f"lookup of link {index}", Message(rt.RTM_GETLINK, rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)))
    hardware = rt.IFINFOMSG.unpack_from(message.body)[1]
    if hardware != ARPHRD_ETHER:
        raise BackendError(f"udp in the kernel: the uplink's hardware type is {hardware}, expected {ARPHRD_ETHER} (ethernet)")
