"""The data plane with its loop in C (`linux.carry`): the same rules, and Python for what is rare."""

from __future__ import annotations

import os
from dataclasses import replace

from flanneld.linux.carry import Carry, Event
from flanneld.tunnel.plane import Plane
from flanneld.tunnel.switch import Counters, Drop

REASONS = tuple(Drop)


class NativePlane(Plane):
    """As `Plane`. Raises CarryError when it is to run where there is no library."""

    _carried: Carry | None = None

    @property
    def counters(self) -> Counters:
        """As of now."""
        mine = self._counters
        found = replace(mine, dropped=mine.dropped.copy())
        if self._carried is not None:
            self._add(found, self._carried)
        return found

    def _start(self) -> None:
        switch = self._switch
        self._carried = Carry(
            self.tun.fd,
            self._underlay.fileno(),
            self._wake,
            prefix=switch.prefix,
            link_size=switch.link_size,
            strict=switch.strict,
            merge_udp=self.tun.takes_udp,
            mtu=self.mtu,
        )
        super()._start()

    def _stop(self) -> None:
        super()._stop()
        if self._carried is not None:
            carried, self._carried = self._carried, None
            self._add(self._counters, carried)
            carried.close()

    def _carry(self) -> None:
        assert self._carried is not None  # noqa: S101  # `_start` has made it
        carried, switch = self._carried, self._switch
        carried.set_peers(switch.table(), switch.owners())
        while not self._stopping:
            event = carried.run()
            if event is Event.TUN_LOST:
                self._lost = True
                return
            if event is Event.WOKEN:
                os.eventfd_read(self._wake)
                carried.set_peers(switch.table(), switch.owners())
                continue
            packets, size, count, why, error, peer = carried.report()
            if event is Event.COMPLAIN:
                switch.complain(REASONS[why], packets, 0, self._counters)
            else:
                self._sender.refused(OSError(error, os.strerror(error)), packets, size, count, peer)

    @staticmethod
    def _add(counters: Counters, carried: Carry) -> None:
        sent, received, *dropped = carried.counters()
        counters.sent += sent
        counters.received += received
        counters.dropped.update({why: number for why, number in zip(REASONS, dropped, strict=True) if number})
