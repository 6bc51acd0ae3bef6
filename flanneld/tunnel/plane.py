"""The data plane: a thread that carries packets between one TUN and one underlay socket; decides nothing, its `Switch` does.

A thread of its own, so that packets do not wait while the daemon thinks about peers; it sleeps in poll(2), without Python's lock.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Self

from flanneld.kernel import KernelError
from flanneld.linux.tun import TunDevice
from flanneld.log import Log
from flanneld.retry import Backoff, retry
from flanneld.tunnel.receiver import Receiver
from flanneld.tunnel.sender import Sender
from flanneld.tunnel.sockets import Offloads
from flanneld.tunnel.switch import Counters, Switch

SWITCH_INTERVAL_S = 0.0005
"""For how long the rest of the daemon may keep Python's lock from this thread when it wants it: Python's own is ten times that."""

log = Log(__name__)


class Plane:
    """One TUN and one underlay socket. It owns the TUN, and closes it at the end of its context; the socket is its maker's."""

    def __init__(self, underlay: socket.socket, tun: TunDevice, switch: Switch, offloads: Offloads, mtu: int) -> None:
        """`mtu`: of the TUN, in bytes."""
        self.tun = tun
        self._counters = Counters()
        self._switch = switch
        self.offloads = offloads
        self.mtu = mtu
        self._underlay = underlay
        self._sender = Sender(underlay, switch, self._counters, segmentation=offloads.segmentation)
        self._receiver = Receiver(underlay, switch, self._counters, merge_udp=tun.takes_udp, mtu=mtu)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trouble = asyncio.Event()
        self._lost = self._stopping = False
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tun.close()
        wake, self._wake = self._wake, -1
        os.close(wake)

    @property
    def counters(self) -> Counters:
        """What it did since it was made."""
        return self._counters

    @property
    def tun_lost(self) -> bool:
        """The TUN was deleted under us; nothing flows until `use` brings another."""
        return self._lost

    def facts(self) -> dict[str, bool]:
        """Which of the kernel's offloads it works with."""
        offloads, tun = self.offloads, self.tun
        return {"gso": offloads.segmentation, "gro": offloads.merging, "tso": tun.takes_tcp, "uso": tun.takes_udp}

    async def keep(self, restore: Callable[[], Awaitable[None]]) -> None:
        """Have a TUN that somebody deletes made again, for ever. `restore` calls `use`; it is repeated while it raises KernelError.

        Raises what ended the thread, if anything did.
        """
        while True:
            await self.until_tun_lost()
            log.warning("tun device deleted, making it again", device=self.tun.name)
            again = Backoff(first_s=0.1, cap_s=10)
            await retry(restore, KernelError, again, failed=lambda why: log.warning("tun device not restored", why=why))

    async def until_tun_lost(self) -> None:
        """Wait for that; raises what ended the thread, if anything did."""
        while not self._lost:
            if self._failure is not None:
                raise self._failure
            self._trouble.clear()
            await self._trouble.wait()  # a thread that has ended since may have set it: hence the loop

    @contextmanager
    def running(self) -> Iterator[None]:
        """Carry packets while the context is open."""
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._start()
        try:
            yield
        finally:
            self._stop()
            self._loop = None

    def use(self, tun: TunDevice) -> None:
        """Go on with another TUN; the one before is closed."""
        self._stop()
        self.tun.close()
        self.tun, self._lost = tun, False
        if self._loop is not None:
            self._start()

    def refresh(self) -> None:
        """The switch has other peers now; nothing happens once this is closed."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="data plane", daemon=True)
        self._thread.start()

    def _stop(self) -> None:
        if self._thread is not None:
            self._stopping = True
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread, self._stopping = None, False

    def _run(self) -> None:
        try:
            self._carry()
        except BaseException as error:  # whatever it is, the daemon is to end by it, not to go on without packets
            self._failure = error
        if self._loop is not None and (self._lost or self._failure):
            self._loop.call_soon_threadsafe(self._trouble.set)

    def _carry(self) -> None:
        """Until the TUN is lost or `_stop` wakes us."""
        tun, underlay, wake = self.tun.fd, self._underlay.fileno(), self._wake
        poller = select.poll()
        for descriptor in (wake, tun, underlay):
            poller.register(descriptor, select.POLLIN)
        while not self._stopping:
            for descriptor, _ in poller.poll():
                if descriptor == underlay:
                    self._receiver.drain(tun)
                elif descriptor == tun:
                    try:
                        self._sender.drain(tun)
                    except OSError:  # EBADFD or EFAULT, by how far the deletion has come
                        self._lost = True
                        return
                else:
                    os.eventfd_read(wake)
