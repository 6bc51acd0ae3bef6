"""Brings the speaker to what it should have: sessions, announcements, the end of our RIB; must not know why it should.

The same again does nothing: what exabgp has is compared with the aim, and it is told the difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import TypeAlias

from bgp.adjacencies import Adjacencies, Standing
from bgp.aim import Aim
from bgp.evpn.exports import evpn_announcements
from bgp.evpn.telling import tell_evpn
from bgp.exports import Reflection, announcements
from bgp.neighbours import Neighbour
from bgp.speaker.commands import Announcement, fingerprint
from bgp.speaker.news import SpeakerError
from bgp.speaker.speaker import Speaker
from flanneld.lease import IPAddress, IPNetwork
from flanneld.log import Log, Once

log = Log(__name__)

Told: TypeAlias = tuple[Announcement, ...]


class Telling:
    """What one speaker is told."""

    def __init__(self, speaker: Speaker, adjacencies: Adjacencies) -> None:
        self._speaker = speaker
        self._heard = adjacencies
        self._said = Once(log)

    async def bring(self) -> bool:
        """Bring exabgp to the aim; false when something of it was refused."""
        aim, done = self._heard.aim, [True]
        neighbours = aim.neighbours
        if self._heard.lost:
            return True
        try:
            await self._end_dead()
            if self._heard.brought is not aim.neighbourhood:
                done = await self._bring_sessions(aim)
            reflection = self._reflection()
            untold = self._untold(aim, reflection)
            news = _grouped(untold, aim, reflection)
            await _all(self._announce(peers, *what) for what, peers in news.items())
            await _all(self._end_telling(neighbour, standing, aim) for neighbour, standing in untold)
            await _all(self._look_after(neighbours[peer]) for peer in self._heard.rib.demanding() if peer in neighbours)
        except SpeakerError as error:
            self._said.warning("bring", "bgp sessions not as they should be", why=error)
            return False
        self._said.over("bring")
        return all(done)

    async def take_leave(self) -> None:
        """Withdraw all that was told, and say that this is all: who would keep our routes over the end of the session does not."""
        for peer, neighbour in self._heard.aim.neighbours.items():
            if (standing := self._heard.standing.get(peer)) is None:
                continue
            with suppress(SpeakerError):
                await self._speaker.withdraw(peer, tuple(standing.told))
                await tell_evpn(self._speaker, peer, standing.told_evpn, {})
                for channel in neighbour.session.channels:
                    await self._speaker.end_of_rib(peer, channel)

    async def _end_dead(self) -> None:
        for peer, standing in list(self._heard.standing.items()):
            if standing.dead and not standing.ending:
                await self._speaker.teardown(peer)
                standing.ending = True

    async def _bring_sessions(self, aim: Aim) -> list[bool]:
        """Have those sessions, and no others; whether each is there now."""
        neighbours = aim.neighbours
        for peer in self._heard.sessions.keys() - neighbours.keys():
            await self._speaker.delete(peer)
            del self._heard.sessions[peer]
            self._heard.standing.pop(peer, None)
        self._heard.brought = aim.neighbourhood
        done = await _all(self._bring_session(neighbour) for neighbour in neighbours.values())
        if not all(done):
            self._heard.brought = None
        return done

    async def _bring_session(self, neighbour: Neighbour) -> bool:
        peer = neighbour.session.peer
        try:
            wanted = fingerprint(neighbour.session)
            if self._heard.sessions.get(peer) != wanted:
                await self._speaker.add(neighbour.session)
                self._heard.sessions[peer] = wanted
        except SpeakerError as error:
            if self._heard.lost:
                raise
            self._said.warning(f"session {peer}", "bgp session refused", peer=peer, why=error)
            return False
        self._said.over(f"session {peer}")
        return True

    def _untold(self, aim: Aim, reflection: Reflection | None) -> list[tuple[Neighbour, Standing]]:
        """The sessions in which there may be something new to say: with many, most of what happens is none of theirs."""
        standing = [(neighbour, self._heard.standing.get(peer)) for peer, neighbour in aim.neighbours.items()]
        reflecting = reflection is not None
        return [(who, each) for who, each in standing if each is not None and (reflecting or each.told_all is not aim)]

    async def _announce(self, peers: Sequence[tuple[IPAddress, Standing]], new: Told, gone: tuple[IPNetwork, ...]) -> bool:
        """Announce and withdraw, the same in all these sessions."""
        addresses = [peer for peer, _ in peers]
        if new:
            await self._speaker.announce(addresses[0], new, *addresses[1:])
            for _, standing in peers:
                standing.told |= {said.prefix: said for said in new}
        if gone:
            await self._speaker.withdraw(addresses[0], gone, *addresses[1:])
            for _, standing in peers:
                standing.told = {prefix: said for prefix, said in standing.told.items() if prefix not in gone}
        return True

    async def _end_telling(self, neighbour: Neighbour, standing: Standing, aim: Aim) -> bool:
        """Say what EVPN is to say, and that it is all."""
        peer = neighbour.session.peer
        if neighbour.session.evpn:
            by_evpn = {} if aim.evpn is None else evpn_announcements(neighbour, aim.evpn)
            await tell_evpn(self._speaker, peer, standing.told_evpn, by_evpn)
        if not standing.ended and self._heard.standing.get(peer) is standing:
            for channel in neighbour.session.channels:
                await self._speaker.end_of_rib(peer, channel)
            standing.ended = True
        standing.told_all = aim
        return True

    async def _look_after(self, neighbour: Neighbour) -> bool:
        """What max-prefix, and a policy that has changed, ask for."""
        peer, state = neighbour.session.peer, self._heard.rib.state(neighbour.session.peer)
        if state is None or peer not in self._heard.standing:
            return True
        if state.limited:
            self._said.warning(
                f"limit {peer}", "too many prefixes, new ones are refused", peer=peer, limit=neighbour.max_prefix.limit
            )
        elif state.warned:
            self._said.warning(f"limit {peer}", "nearly too many prefixes", peer=peer, limit=neighbour.max_prefix.limit)
        if state.wants_reset:
            await self._speaker.teardown(peer)
        elif state.wants_refresh:
            for channel in neighbour.session.channels:
                await self._speaker.refresh(peer, channel)
            self._heard.rib.refreshed(peer)
        return True

    def _reflection(self) -> Reflection | None:
        cluster_id = self._heard.aim.neighbourhood.cluster_id
        if cluster_id is None:
            return None
        neighbours = self._heard.aim.neighbours
        return Reflection(
            cluster_id,
            self._heard.rib.choices(),
            {peer: neighbour.role for peer, neighbour in neighbours.items()},
            frozenset(peer for peer, neighbour in neighbours.items() if neighbour.session.internal),
            self._heard.router_ids,
        )


def _grouped(
    untold: Iterable[tuple[Neighbour, Standing]], aim: Aim, reflection: Reflection | None
) -> dict[tuple[Told, tuple[IPNetwork, ...]], list[tuple[IPAddress, Standing]]]:
    """What is to be announced and withdrawn, and in which sessions: said one by one, the last of many would hear late."""
    found: dict[tuple[Told, tuple[IPNetwork, ...]], list[tuple[IPAddress, Standing]]] = {}
    for neighbour, standing in untold:
        wanted = announcements(neighbour, aim.origination, reflection)
        new = tuple(said for prefix, said in wanted.items() if standing.told.get(prefix) != said)
        gone = tuple(prefix for prefix in standing.told if prefix not in wanted)
        if new or gone:
            found.setdefault((new, gone), []).append((neighbour.session.peer, standing))
    return found


async def _all(works: Iterable[Coroutine[None, None, bool]]) -> list[bool]:
    """Do them at once, for each waits for an answer; raises the first error, when all have ended."""
    done = await asyncio.gather(*works, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result is True for result in done]
