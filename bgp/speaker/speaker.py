"""The BGP speaker as the daemon sees it: sessions and announcements in, news out; must not know what they are good for.

async with Speaker(Path("/run/flannel/bgp"), (IPv4Address("192.0.2.1"),)) as speaker:
    async for news in speaker.events():
        match news:
            case Synced(): await speaker.add(session)
            case Up(peer): await speaker.announce(peer, [...]); await speaker.end_of_rib(peer, 4)

exabgp and its sessions stay when the context ends, for `orphan_s`; a speaker that comes meanwhile takes them over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Self

from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.routes import Key
from bgp.session import BGP_PORT, Channel, Session
from bgp.speaker import child, commands
from bgp.speaker.commands import Announcement
from bgp.speaker.keeper import Keeper
from bgp.speaker.news import News
from flanneld.lease import IPAddress, IPNetwork


class Speaker:
    """One exabgp: started when there is none, taken over when there is, started again when it has died."""

    def __init__(
        self,
        directory: Path,
        listen: tuple[IPAddress, ...],
        port: int = BGP_PORT,
        user: str | None = None,
        orphan_s: float = 120.0,
    ) -> None:
        """`directory` is the speaker's own, in a place that survives the daemon but not the host (/run); made if it is not there.

        Neighbours may connect to the addresses and the port. exabgp, when it is root's, becomes `user`; None: exabgp, or nobody.
        Without a client for `orphan_s` it takes leave of its neighbours and ends. Raises SpeakerError: there is no such user.
        """
        self._keeper = Keeper(child.settings_for(directory, listen, port, user, orphan_s))
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._keeping = asyncio.create_task(self._keeper.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))

    async def events(self) -> AsyncIterator[News]:
        """Yield Synced, then events, then Lost, then Synced ..; or Lost first, while exabgp cannot be started. For one reader.

        Ends with `leave` or `quit`, or with the context.
        """
        while (news := await self._keeper.news.get()) is not None:
            yield news
        if self._keeping is not None and not self._keeping.cancelled():
            await self._keeping  # it may have failed in a way that nobody foresaw

    async def command(self, lines: Iterable[str]) -> None:
        """Have commands carried out, in order; returns when all have been answered.

        Raises SpeakerError for the first that was refused, when the others have been answered too; and whenever exabgp is not
        there, from Lost to Synced.
        """
        await self._keeper.command(lines)

    async def add(self, session: Session) -> None:
        """Have a session; it may be repeated. One that differs is made anew, while the neighbour keeps our routes if it can."""
        await self.command([commands.add(session)])

    async def delete(self, peer: IPAddress) -> None:
        """Have the session no more; the neighbour forgets our routes. Raises SpeakerError: there is none."""
        await self.command([commands.delete(peer)])

    async def announce(self, peer: IPAddress, announcements: Iterable[Announcement], *others: IPAddress) -> None:
        """Announce, now or when the session is established; to be repeated on every Up, for a session remembers not all of it.

        `others` are told the same. Raises SpeakerError when there is no session with any of them.
        """
        await self.command(commands.announce(peer, announcements, *others))

    async def withdraw(self, peer: IPAddress, prefixes: Iterable[IPNetwork], *others: IPAddress) -> None:
        """Withdraw prefixes, announced or not."""
        await self.command(commands.withdraw(peer, prefixes, *others))

    async def announce_evpn(self, peer: IPAddress, announcements: Iterable[EvpnAnnouncement]) -> None:
        """As `announce`, of EVPN routes; raises SpeakerError for a session without EVPN."""
        await self.command(commands.announce_evpn(peer, announcements))

    async def withdraw_evpn(self, peer: IPAddress, keys: Iterable[Key]) -> None:
        """Withdraw EVPN routes, announced or not."""
        await self.command(commands.withdraw_evpn(peer, keys))

    async def end_of_rib(self, peer: IPAddress, family: Channel) -> None:
        """Say that all has been announced; raises SpeakerError unless the session is established."""
        await self.command([commands.end_of_rib(peer, family)])

    async def refresh(self, peer: IPAddress, family: Channel) -> None:
        """Have the neighbour say everything again; raises SpeakerError unless the session is established."""
        await self.command([commands.refresh(peer, family)])

    async def teardown(self, peer: IPAddress) -> None:
        """End the session by a NOTIFICATION, so that nothing of it is kept, and begin it anew."""
        await self.command([commands.teardown(peer)])

    async def leave(self) -> None:
        """End exabgp for good: neighbours are told, and forget our routes."""
        await self._end(commands.LEAVE)

    async def quit(self) -> None:
        """End exabgp for a while: neighbours that can do graceful restart keep our routes."""
        await self._end(commands.QUIT)

    async def _end(self, word: str) -> None:
        if self._keeping is not None:
            await self._keeper.end(word, self._keeping)
