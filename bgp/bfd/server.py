"""BFD for a daemon that may be slow, or away: sessions run on, and whoever comes is told how they stand; must not know BGP.

There is one client at a time, and a new one takes the place of the old: of two daemons the later is right. Sessions go on as the
last one wanted. When there has been no client for long they are ended on purpose, so that no neighbour takes that for a failure.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections import Counter
from collections.abc import Callable, Mapping

from bgp import process
from bgp.bfd import words
from bgp.bfd.packet import Drop
from bgp.bfd.service import BfdService
from bgp.bfd.settings import Settings
from bgp.bfd.words import End, Follow, Hello, Report, Standing
from flanneld.lease import IPAddress
from flanneld.log import Log

log = Log(__name__)

REPORT_S = 1.0
"""Between two reports, also of nothing: a client takes a process that is silent for stuck."""
MOST_UNREAD = 4 << 20
"""Bytes that a client may leave unread: then it is dropped, and told everything anew when it is back."""
LAST_WORDS_S = 1.0


class _Client:
    """Who is connected, and what it knows."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._transport = writer.transport
        self._sessions: dict[IPAddress, Standing] = {}
        self._dropped: Counter[Drop] = Counter()

    def say(self, said: Hello | Report) -> None:
        if self._transport.get_write_buffer_size() > MOST_UNREAD:
            self.close()
        if not self._transport.is_closing():
            self._transport.write(words.encode(said))

    def report(self, sessions: Mapping[IPAddress, Standing], gone: frozenset[IPAddress], dropped: Counter[Drop]) -> None:
        """Say what it does not know yet of that, which may be nothing."""
        news = {peer: standing for peer, standing in sessions.items() if self._sessions.get(peer) != standing}
        counts = {reason: count for reason, count in dropped.items() if self._dropped[reason] != count}
        self.say(Report(news, gone, counts))
        self._sessions |= news
        self._dropped.update(dropped - self._dropped)
        for peer in gone:
            self._sessions.pop(peer, None)

    @property
    def known(self) -> frozenset[IPAddress]:
        return frozenset(self._sessions)

    def close(self) -> None:
        self._transport.abort()


class BfdServer:
    """The sessions of a host, and the client that wants them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hello = Hello(settings.name, secrets.token_hex(8))
        self._uid = os.geteuid()
        """Of who has started us: `run` may be somebody else's."""
        self._downs: Counter[IPAddress] = Counter()
        self._why: dict[IPAddress, str] = {}
        self._client: _Client | None = None
        self._clients = 0
        """With those whose place another has taken, and who have not noticed."""
        self._left_at = 0.0
        self._ended = asyncio.Event()
        self._service: BfdService

    async def run(self, listener: socket.socket, started: Callable[[], None]) -> None:
        """Serve until told to end, by a word or by SIGTERM, or until nobody has come for long.

        `started` is called when it listens: who we are then is who clients find.
        """
        self._service = BfdService(self._changed)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ended.set)
        self._left_at = loop.time()
        server = await asyncio.start_unix_server(self._connected, sock=listener, limit=words.LONGEST)
        try:
            started()
            while not self._ended.is_set() and not self._is_forsaken(loop.time()):
                try:
                    async with asyncio.timeout(REPORT_S):
                        await self._ended.wait()
                except TimeoutError:
                    self._report()
        finally:
            self._service.close()
            server.close()
            await self._dismiss()

    def _is_forsaken(self, now: float) -> bool:
        return self._client is None and now - self._left_at >= self._settings.orphan_s

    async def _dismiss(self) -> None:
        """End the last connection, by which the client knows."""
        deadline = asyncio.get_running_loop().time() + LAST_WORDS_S
        while self._clients and asyncio.get_running_loop().time() < deadline:
            if self._client is not None:
                self._client.close()
            await asyncio.sleep(0.001)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if process.peer_of(writer.get_extra_info("socket"))[1] not in (0, self._uid):
            writer.transport.abort()
            return
        if self._client is not None:
            self._client.close()
        client = self._client = _Client(writer)
        self._clients += 1
        client.say(self._hello)
        self._report()
        try:
            while line := await reader.readline():
                self._take(words.decode(line))
        except (OSError, ValueError) as error:  # it has gone, or speaks another language
            log.warning("client lost", error=error)
        finally:
            client.close()
            self._clients -= 1
            if self._client is client:
                self._client = None
                self._left_at = asyncio.get_running_loop().time()

    def _take(self, said: words.Said) -> None:
        match said:
            case Follow(wanted):
                self._service.follow(wanted)
                self._report()
            case End():
                self._ended.set()
            case _:
                raise words.WordsError(f"expected what is to be, got {said}")

    def _changed(self, peer: IPAddress, up: bool, why: str) -> None:
        if not up:
            self._downs[peer] += 1
            self._why[peer] = why
        if self._client is not None:
            self._client.report({peer: self._standing(peer)}, frozenset(), self._service.dropped)

    def _report(self) -> None:
        """All that the client does not know yet."""
        if self._client is not None:
            present = {peer: self._standing(peer) for peer in self._service.states.keys() | self._service.troubles.keys()}
            self._client.report(present, self._client.known - present.keys(), self._service.dropped)

    def _standing(self, peer: IPAddress) -> Standing:
        service = self._service
        return Standing(service.states.get(peer), self._downs[peer], self._why.get(peer, ""), service.troubles.get(peer, ""))
