"""A connection to a running speaker: commands and their answers, and what it tells besides; must not know how it was started."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from bgp.events import Announced, Event, EvpnAnnounced, Opened
from bgp.evpn.routes import Key
from bgp.path import Path
from bgp.speaker import commands
from bgp.speaker.decode import Answer, Hello, Listed, Listing, Refused, Said, Was, WasAnnounced, decode
from bgp.speaker.news import SpeakerError, Synced
from flanneld.lease import IPAddress, IPNetwork
from flanneld.log import Log

log = Log(__name__)

READ_BYTES = 1 << 18
GREETING_S = 5.0
"""For a relay to say who it is; for one that is being started, too."""
GONE = "the speaker is gone"


class _Picture:
    """A listing as it comes in."""

    def __init__(self) -> None:
        self._sessions: dict[IPAddress, str] = {}
        self._opened: dict[IPAddress, Opened] = {}
        self._paths: list[Path] = []
        self._announced: dict[IPAddress, frozenset[IPNetwork]] = {}
        self._evpn: list[EvpnAnnounced] = []
        self._evpn_announced: dict[IPAddress, frozenset[Key]] = {}

    def add(self, said: Said) -> None:
        match said:
            case Listed(peer, fingerprint):
                self._sessions[peer] = fingerprint
            case Was(events):
                for event in events:
                    if isinstance(event, Opened):
                        self._opened[event.peer] = event
                    elif isinstance(event, Announced):
                        self._paths += event.paths
                    elif isinstance(event, EvpnAnnounced):
                        self._evpn.append(event)
            case WasAnnounced(peer, prefixes, keys):
                self._announced[peer], self._evpn_announced[peer] = prefixes, keys
            case _:
                pass

    def whole(self) -> Synced:
        told = tuple(self._paths), self._announced, tuple(self._evpn), self._evpn_announced
        return Synced(self._sessions, self._opened, *told)


class Connection:
    """One client of a relay, which is the only one as long as it lasts."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tell: Callable[[Synced | tuple[Event, ...]], None]
    ) -> None:
        """`tell` is called with how everything stands, once, and after that with what changes, in order."""
        self._reader = reader
        self._writer = writer
        self._tell = tell
        self._questions: deque[tuple[str, asyncio.Future[None]]] = deque()
        """Commands without an answer, and what each is about."""
        self._why = ""
        """The next answer is an error for this reason."""
        self._token = secrets.token_hex(8)
        """Until it is said, what comes is for a client before us: answers to its commands, and what is in the listing anyway."""
        self._picture: _Picture | None = None
        self.synced = False

    async def greeting(self) -> Hello:
        """What the relay says first; to be awaited once, before `run`. Raises SpeakerError."""
        try:
            line = (await self._reader.readline()).decode()
        except (OSError, ValueError) as error:
            raise SpeakerError(f"{GONE}: {error}") from error
        if not line:
            raise SpeakerError(GONE)
        said = decode(line)
        if not isinstance(said, Hello):
            raise SpeakerError(f"expected a speaker's greeting, got {said}")
        return said

    async def run(self) -> None:
        """Ask how everything stands, and listen until the connection ends; every command without an answer fails then."""
        try:
            self._writer.write(f"{commands.list_all(self._token)}\n".encode())
            rest = b""
            with suppress(OSError):
                while data := await self._reader.read(READ_BYTES):
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self._hear(line)
        finally:
            self.close()

    async def ended(self, word: str) -> None:
        """Say a last word, and return when the connection has been ended; instead of `run`."""
        self._writer.write(f"{word}\n".encode())
        with suppress(OSError):
            while await self._reader.read(READ_BYTES):
                pass

    async def command(self, lines: Iterable[str]) -> None:
        """Have commands carried out, in order; returns when all have been answered.

        Raises SpeakerError for the first that was refused, when the others have been answered too; or when the connection ends.
        """
        if self._writer.is_closing():
            raise SpeakerError(GONE)
        loop, said = asyncio.get_running_loop(), list(lines)
        asked = [(_about(line), loop.create_future()) for line in said]
        self._questions += asked
        self._writer.write("".join(f"{line}\n" for line in said).encode())
        answers = await asyncio.gather(*(question for _, question in asked), return_exceptions=True)
        refused = [answer for answer in answers if answer is not None]
        if refused:
            raise SpeakerError(str(refused[0]))

    def close(self) -> None:
        """End it; it may be repeated."""
        self._writer.transport.abort()
        while self._questions:
            _fail(self._questions.popleft()[1], GONE)

    def _hear(self, line: bytes) -> None:
        try:
            said = decode(line.decode())
        except (SpeakerError, UnicodeDecodeError) as error:
            log.warning("unknown words of exabgp's", error=error)
            return
        if self.synced:
            self._take(said)
        elif self._picture is not None:
            self._paint(self._picture, said)
        elif said == Listing(self._token):
            self._picture = _Picture()

    def _paint(self, picture: _Picture, said: Said) -> None:
        """The listing is said in one go: no event comes in between."""
        if isinstance(said, Answer):
            self.synced = True
            self._tell(picture.whole())
        else:
            picture.add(said)

    def _take(self, said: Said) -> None:
        match said:
            case Answer(done):
                self._answered(done)
            case Refused(why):
                self._why = why
            case tuple() if said:
                self._tell(said)
            case _:
                pass

    def _answered(self, done: bool) -> None:
        why, self._why = self._why, ""
        if not self._questions:
            log.warning("answer of exabgp's to no question", done=done)
            return
        about, question = self._questions.popleft()
        if not done:
            _fail(question, why or f"exabgp refused {about}, its log says why")
        elif not question.done():
            question.set_result(None)


def _about(line: str) -> str:
    """As much of a command as may be shown: sessions have passwords in them."""
    words = line.split(" ", 4)
    return " ".join(words[: 4 if words[0] == "neighbor" else 2])


def _fail(question: asyncio.Future[None], why: str) -> None:
    if not question.done():
        question.set_exception(SpeakerError(why))
        question.exception()  # it has been seen, should who asked be gone
