"""Traffic between namespaces of a host with CNI plugins: services that answer, and who they see calling."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address

from cni_world import CniHost, Sandbox

PATIENCE_S = 5.0
"""For what is expected to arrive: IPv6 may be looking for duplicates of an address first."""
SILENCE_S = 0.4
"""For what is expected not to."""
HOST = ("192.0.2.1", "2001:db8::1")
OUTSIDE = ("192.0.2.2", "2001:db8::2")
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


@dataclass(frozen=True)
class Service:
    """A port in a namespace that answers."""

    listener: socket.socket
    kind: socket.SocketKind

    def caller(self, client: Sandbox, address: str, port: int, wait_s: float = PATIENCE_S) -> str:
        """Call from there, once, and be answered; the source address that this service sees. Raises OSError: it got lost."""
        self.listener.settimeout(wait_s)
        with client.place.call(socket.socket, _family(address), self.kind) as near:
            near.settimeout(wait_s)
            near.connect((address, port))
            seen = self._answer(near)
            assert near.recv(100) == b"answer"
            return seen

    def reaches(self, client: Sandbox, address: str, port: int) -> str:
        """The same, until it works or patience ends."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(OSError):
                return self.caller(client, address, port, wait_s=1)
            time.sleep(0.05)
        return self.caller(client, address, port, wait_s=1)

    def unreachable(self, client: Sandbox, address: str, port: int) -> bool:
        """True if a call from there does not get here, or its answer not back."""
        try:
            self.caller(client, address, port, wait_s=SILENCE_S)
        except OSError:
            return True
        return False

    def _answer(self, near: socket.socket) -> str:
        if self.kind == UDP:
            near.send(b"call")
            _, source = self.listener.recvfrom(100)
            self.listener.sendto(b"answer", source)
        else:
            far, source = self.listener.accept()
            with far:
                far.sendall(b"answer")
        address = ip_address(source[0])
        return str(getattr(address, "ipv4_mapped", None) or address)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def service(server: Sandbox, port: int, kind: socket.SocketKind = TCP, address: str = "0.0.0.0") -> Iterator[Service]:  # noqa: S104
    """A service in that namespace, until the end of this context."""
    with server.place.call(socket.socket, _family(address), kind) as listener:
        if kind == TCP:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        if kind == TCP:
            listener.listen()
        yield Service(listener, kind)


def outside(host: CniHost) -> Sandbox:
    """A namespace on a wire with the host, which sends all that it has for others to the host."""
    beyond = host.sandbox("outside")
    host.ip(
        f"link add uplink type veth peer name eth0 netns outside\n"
        f"address add {HOST[0]}/24 dev uplink\naddress add {HOST[1]}/64 dev uplink nodad\nlink set uplink up"
    )
    beyond.ip(
        f"address add {OUTSIDE[0]}/24 dev eth0\naddress add {OUTSIDE[1]}/64 dev eth0 nodad\nlink set eth0 up\n"
        f"route add default via {HOST[0]}\nroute add ::/0 via {HOST[1]}"
    )
    return beyond
