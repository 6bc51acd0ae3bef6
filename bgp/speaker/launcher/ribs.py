# ruff: noqa: SLF001  # methods of exabgp's tables, put in the place of its own
"""exabgp's two tables for each neighbour, where the last word counts; must not know who speaks."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from bgp.speaker.launcher import stock

_update_rib = stock.OutgoingRIB._update_rib
_update_cache = stock.IncomingRIB.update_cache


def mend() -> None:
    """Put them in place; it may be repeated."""
    stock.OutgoingRIB._update_rib = update_rib
    stock.IncomingRIB.update_cache = update_cache


def update_rib(self: Any, change: Any) -> None:
    """Queue a change for the neighbour, in the place of one for the same prefix that has not been sent yet.

    The stock one queues by attributes, in the order in which attributes were first seen, and sends both: a route that is withdrawn
    and then announced again within one turn may be sent as announced and then withdrawn. It stays lost, for the table says that it
    was announced. See whether its unit test passes without this.
    """
    if (waiting := self._new_nlri.pop(change.index(), None)) is not None:
        self._new_attr_af_nlri[waiting.attributes.index()][waiting.nlri.family().afi_safi()].pop(waiting.index(), None)
    _update_rib(self, change)


def update_cache(self: Any, change: Any) -> None:
    """Remember what a neighbour announced, by the global of two next hops.

    An IPv6 announcement may have a link-local next hop besides (RFC 2545 §3), which exabgp makes a second route of: the stock one
    remembers the last of the two, which is of no use beyond the link. See whether a prefix of FRR's appears under two next hops.
    """
    known = self._seen.get(change.nlri.family().afi_safi(), {}).get(change.index())
    if known is None or known.attributes is not change.attributes or not _is_link_local(change.nlri):
        _update_cache(self, change)


def _is_link_local(nlri: Any) -> bool:
    try:
        return ip_address(str(nlri.nexthop)).is_link_local
    except ValueError:
        return False  # there is none
