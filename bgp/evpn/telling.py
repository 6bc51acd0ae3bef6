"""Has one neighbour told what it is to be told by EVPN; must not know what that is, nor why."""

from __future__ import annotations

from collections.abc import Mapping

from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.routes import Key
from bgp.speaker.speaker import Speaker
from flanneld.lease import IPAddress


async def tell_evpn(
    speaker: Speaker, peer: IPAddress, told: dict[Key, EvpnAnnouncement | None], wanted: Mapping[Key, EvpnAnnouncement]
) -> None:
    """Bring `told`, and the neighbour, to what is wanted; None in `told` is what we said once, and do not know how.

    Raises SpeakerError, and `told` is what was told until then.
    """
    if new := [said for key, said in wanted.items() if told.get(key) != said]:
        await speaker.announce_evpn(peer, new)
        told |= {said.route.key: said for said in new}
    if gone := [key for key in told if key not in wanted]:
        await speaker.withdraw_evpn(peer, gone)
        for key in gone:
            del told[key]
