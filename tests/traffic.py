"""Traffic between places of a lab, and taps that see what a wire would carry."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from flanneld.lease import IPAddress
from flanneld.linux.offloads import Offload, set_offload
from flanneld_world import Flanneld, World, eventually
from lab.place import Place
from lab.pods import Pod

PATIENCE_S = 10.0
UNDER_WAY = 3
"""Echoes that may not have come back when a ping is told to end."""
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
HEADERS = {4: 28, 6: 48}
"""Bytes of IP and ICMP before what `ping -s` counts."""


def meshed(world: World, *names: str, flags: Sequence[str] = ()) -> list[Pod]:
    """Start flanneld on these hosts (all, without names) and wait until each reaches all others; returns a pod of each."""
    wanted = names or tuple(host.name for host in world.lab.hosts)
    daemons = [world.start(name, *flags) for name in wanted]
    for one in daemons:
        await_peers(one.ready(), len(wanted) - 1)
    return [world.lab.host(name).pod("p1") for name in wanted]


def await_peers(one: Flanneld, peers: int) -> None:
    """Wait until it has last dealt with that many, be it by refusing them."""

    def look() -> bool:
        said = one.said("peers programmed")
        return bool(said) and said[-1]["peers"] + said[-1]["refused"] == peers

    eventually(look, f"{peers} peers for {one}")


def address_of(pod: Pod, family: int = 4) -> IPAddress:
    return next(ip.ip for ip in pod.addresses if ip.version == family)


def ping(place: Place, address: IPAddress, *options: str) -> bool:
    """True if each of three echoes comes back."""
    return place.run(["ping", "-c3", "-i0.02", "-W5", *options, str(address)], check=False).returncode == 0


def ping_sized(place: Place, address: IPAddress, size: int) -> bool:
    """The same with packets of that many bytes, which nobody may cut."""
    return ping(place, address, "-Mdo", f"-s{size - HEADERS[address.version]}")


@contextmanager
def connected(client: Place, server: Place, address: IPAddress) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection to the server's address: the client's end, the server's end."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with ExitStack() as stack:
        # A socket stays in the namespace in which it was opened.
        listener = stack.enter_context(server.call(socket.create_server, (str(address), 0), family=family))
        listener.settimeout(PATIENCE_S)
        near = stack.enter_context(client.call(socket.create_connection, listener.getsockname()[:2], PATIENCE_S))
        far = stack.enter_context(listener.accept()[0])
        far.settimeout(PATIENCE_S)
        yield near, far


def seen_source(client: Place, server: Place, address: IPAddress) -> str:
    """Which address the server sees as the client's."""
    with connected(client, server, address) as (_, far):
        return str(far.getpeername()[0])


def transferred(client: Place, server: Place, address: IPAddress, content: bytes) -> bytes:
    """What the client gets when the server sends it the content."""
    with connected(client, server, address) as (near, far), ThreadPoolExecutor(1) as thread:
        sending = thread.submit(_send_all, far, content)
        received = bytearray()
        while chunk := near.recv(1 << 16):
            received += chunk
        sending.result()
    return bytes(received)


def _send_all(end: socket.socket, content: bytes) -> None:
    end.sendall(content)
    end.shutdown(socket.SHUT_WR)


class Tap:
    """Frames of one interface, from the moment the tap was set."""

    def __init__(self, tap: socket.socket) -> None:
        self._tap = tap

    def frames(self, *, outgoing: bool | None = False) -> list[Packet]:
        """Of those since the last call what the interface received, or sent, or (None) both."""
        found = []
        with suppress(BlockingIOError):
            while True:
                frame, address = self._tap.recvfrom(1 << 16)
                if outgoing in (None, address[2] == socket.PACKET_OUTGOING):
                    found.append(Ether(frame))
        return found


@contextmanager
def tapped(place: Place, device: str) -> Iterator[Tap]:
    """A tap on an interface there."""
    with place.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0) as tap:
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        tap.bind((device, ETH_P_ALL))
        yield Tap(tap)


def finish_checksums(place: Place, device: str = "eth0") -> None:
    """Turn the sender's transmit checksum offload off, and with it segmentation offload: a tap then sees what a wire would carry.

    A veth pair otherwise hands over packets whose checksums are left for hardware that is not there.
    """
    place.call(leave_no_checksum, device)


def leave_no_checksum(device: str) -> None:
    """The same, of a device in this network namespace."""
    with socket.socket() as any_socket:
        set_offload(any_socket, device, Offload.TX_CHECKSUM, on=False)


def recomputed(packet: Packet) -> bytes:
    """The packet with scapy's checksums in it, from the outermost header to the innermost."""
    again = packet.copy()
    for layer in again.iterpayloads():
        for name in ("chksum", "cksum"):
            layer.fields.pop(name, None)
    again.clear_cache()
    return bytes(again)


@dataclass(slots=True)
class Echoes:
    """What became of a steady ping."""

    sent: int = 0
    answered: int = 0

    @property
    def lost(self) -> int:
        return self.sent - self.answered


@contextmanager
def steady_ping(place: Place, address: IPAddress, interval_s: float = 0.01) -> Iterator[Echoes]:
    """Ping within the context, as often as that; it is counted at its end."""
    echoes = Echoes()
    with TemporaryFile("w+") as output:  # a pipe that nobody reads would be full after a thousand echoes, and ping wait
        pinging = place.popen(["ping", f"-i{interval_s}", "-W2", str(address)], stdout=output.fileno())
        try:
            eventually(lambda: pinging.poll() is not None or _catches(pinging.pid, signal.SIGINT), "a ping that can be ended")
            yield echoes
        finally:
            pinging.send_signal(signal.SIGINT)
            pinging.wait(PATIENCE_S)
        output.seek(0)
        said = output.read()
    (sent,) = map(int, re.findall(r"(\d+) packets transmitted", said))
    answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", said)}
    assert answered, said
    # It does not wait for the last ones: they are no loss.
    echoes.sent = max(answered) if sent - max(answered) <= UNDER_WAY else sent
    echoes.answered = len(answered)


def _catches(pid: int, number: signal.Signals) -> bool:
    """True if the process has a handler for the signal, without which it would end without a word."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (number - 1) & 1)
