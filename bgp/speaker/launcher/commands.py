# ruff: noqa: SLF001  # uses of exabgp's process table what its own events use
"""What exabgp can be asked for besides: sessions at run time, all that it knows in one answer, and to end; must not know who asks.

    peer add FINGERPRINT BASE64    have the session that the text configures; it may be repeated
    peer del ADDRESS               have it no more; the neighbour gets a NOTIFICATION and forgets our routes
    peer renew ADDRESS             end it with a NOTIFICATION and begin it anew
    evpn announce .., evpn withdraw ..    see `launcher.evpn`
    peer list TOKEN                say TOKEN and then, without anything in between, what is in `_listing`
    leave                          part with all neighbours by a NOTIFICATION, and end
    quit                           end without a word: neighbours that can do graceful restart keep our routes

exabgp finds a command's name anywhere in the line, so none of these may have a word of another name in it (`reset`). Lines that
are not exabgp's own are objects with a `speaker` in them. Why a command is refused comes in such a line before `error`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

from bgp.speaker.launcher import evpn, neighbours, stock
from bgp.speaker.launcher.neighbours import Neighbour, Refused

ADMINISTRATIVE_SHUTDOWN, PEER_DECONFIGURED, ADMINISTRATIVE_RESET = 2, 3, 4
"""RFC 4486 §3."""
LEAVE_S = 2.0
"""For all neighbours together to take our NOTIFICATION."""

Work = Callable[[Any, str, list[str]], Iterator[object]]
"""Does a command for a reactor, a service and the command's words; yields to let the reactor go on; raises Refused."""


def register(section: str) -> None:
    """Make them known to exabgp; `section`: what must stand before a neighbour's configuration. It may be repeated."""

    def add(reactor: Any, service: str, words: list[str]) -> Iterator[object]:
        neighbours.add(reactor, words[2], section + base64.b64decode(words[3]).decode())
        yield None

    works: dict[str, Work] = {"peer add": add, "peer del": _delete, "peer renew": _renew, "peer list": _list}
    works |= {"evpn announce": evpn.announce, "evpn withdraw": evpn.withdraw}
    for name, work in (works | {"leave": _leave, "quit": _quit}).items():
        stock.Command.register(name, False)(_command(work))


def _command(work: Work) -> Callable[..., bool]:
    def command(self: Any, reactor: Any, service: str, line: str, use_json: bool) -> bool:
        reactor.asynchronous.schedule(service, line, _answered(work, reactor, service, line.split()))
        return True

    return command


def _answered(work: Work, reactor: Any, service: str, words: list[str]) -> Iterator[object]:
    try:
        yield from work(reactor, service, words)
    except (Refused, LookupError, ValueError) as error:
        reactor.processes.write(service, json.dumps({"speaker": "refused", "why": f"{' '.join(words[:2])}: {error}"}))
        reactor.processes.answer_error(service)
    else:
        reactor.processes.answer_done(service)


def _delete(reactor: Any, service: str, words: list[str]) -> Iterator[object]:
    yield from neighbours.delete(reactor, words[2], PEER_DECONFIGURED)


def _renew(reactor: Any, service: str, words: list[str]) -> Iterator[object]:
    peer = neighbours.find(reactor, words[2])
    if peer is None:
        raise Refused(f"no neighbour {words[2]}")
    peer.part(ADMINISTRATIVE_RESET, again=True)
    yield None


def _list(reactor: Any, service: str, words: list[str]) -> Iterator[object]:
    reactor.processes.write(service, json.dumps({"speaker": "list", "token": words[2]}))
    for peer in neighbours.all_of(reactor):
        if not peer.stopping():
            for line in _listing(reactor.processes._encoder[service], peer):
                reactor.processes.write(service, line)
    yield None


def _listing(encoder: Any, peer: Neighbour) -> Iterator[str]:
    """What there is of a session: its fingerprint; the OPEN and all paths from an established one, as events; what is announced."""
    neighbor = peer.neighbor
    address = str(neighbor["peer-address"])
    yield json.dumps({"speaker": "session", "peer": address, "fingerprint": peer.fingerprint, "established": peer.established})
    if peer.established:
        opened = encoder.open(neighbor, "receive", peer.proto.negotiated.received_open, None, b"", b"")
        yield f'{{"speaker": "was", "event": {opened}}}'
        told: dict[int, Any] = {}
        for change in neighbor.rib.incoming.cached_changes():
            told.setdefault(id(change.attributes), stock.Update([], change.attributes)).nlris.append(change.nlri)
        for update in told.values():
            yield f'{{"speaker": "was", "event": {encoder.update(neighbor, "receive", update, None, b"", b"")}}}'
    announced = [change.nlri.cidr.prefix() for change in neighbor.rib.outgoing.cached_changes() if hasattr(change.nlri, "cidr")]
    yield json.dumps({"speaker": "announced", "peer": address, "prefixes": announced, "evpn": evpn.announced(neighbor)})


def _leave(reactor: Any, service: str, words: list[str]) -> Iterator[object]:
    yield from neighbours.part_with(reactor, neighbours.all_of(reactor), ADMINISTRATIVE_SHUTDOWN, LEAVE_S)
    yield from _quit(reactor, service, words)


def _quit(reactor: Any, service: str, words: list[str]) -> Iterator[object]:
    reactor.signal.received = reactor.signal.SHUTDOWN
    yield None
