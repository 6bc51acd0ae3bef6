"""Keeps a connection to exabgp, and exabgp itself; must not know what is said over it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from bgp.events import Event
from bgp.process import STEADY_S, ProcessError
from bgp.speaker import child, commands
from bgp.speaker.connection import GONE, GREETING_S, Connection
from bgp.speaker.launcher.settings import Settings
from bgp.speaker.news import Lost, News, SpeakerError, Synced
from flanneld.log import Log, Once
from flanneld.retry import Backoff

log = Log(__name__)

SYNC_S = 30.0
"""For exabgp to say how everything stands: else it is stuck, and ended."""
ANSWER_S = 60.0
"""For exabgp to answer commands: else the connection is made anew, and so is exabgp, if it is stuck."""
END_S = 5.0
"""For exabgp to end when it is asked to."""
MOST_NEWS = 500_000
"""That nobody has taken; then the connection is made anew, and there is one Synced in the place of all that would have come."""


class Keeper:
    """One exabgp: started when there is none, taken over when there is, started again when it has died."""

    def __init__(self, settings: Settings) -> None:
        self.news: asyncio.Queue[News | None] = asyncio.Queue()
        """None is the last of it."""
        self._settings = settings
        self._connection: Connection | None = None
        self._patience: asyncio.Timeout | None = None
        self._once = Once(log)
        self._ending = False

    async def run(self) -> None:
        """Have a connection, always; returns after `end`."""
        backoff, said, loop = Backoff(0.1, 5.0), "", asyncio.get_running_loop()
        try:
            while not self._ending:
                began = loop.time()
                try:
                    await self._be_connected()
                    why, said = GONE, ""
                    if loop.time() - began >= STEADY_S:
                        backoff.reset()
                except (SpeakerError, ProcessError, OSError) as error:
                    why = str(error)
                if why != said and not self._ending:
                    self.news.put_nowait(Lost(why))
                    self._once.warning("speaker", "bgp speaker lost", why=why)
                said = why
                await asyncio.sleep(0 if self._ending else backoff.next())
        finally:
            self.news.put_nowait(None)

    async def command(self, lines: Iterable[str]) -> None:
        """As `Connection.command`; raises SpeakerError between Lost and Synced, too, and when there is no answer."""
        connection = self._connection
        if connection is None or not connection.synced:
            raise SpeakerError(GONE)
        try:
            async with asyncio.timeout(ANSWER_S):
                await connection.command(lines)
        except TimeoutError as error:
            connection.close()
            raise SpeakerError(f"exabgp has not answered within {ANSWER_S:.0f} s") from error

    async def end(self, word: str, running: asyncio.Task[None]) -> None:
        """Have exabgp end by a last word, if there is one now; `running` is `run`, which has ended when this returns."""
        self._ending = True
        with suppress(SpeakerError):
            await self.command([word])
            await asyncio.wait((running,), timeout=END_S)
        running.cancel()
        await asyncio.wait((running,))
        self._settings.socket.unlink(missing_ok=True)

    async def _be_connected(self) -> None:
        """Connect, and stay so as long as that lasts; raises one of three errors if that could not be, or was of no use."""
        connection, pid = await self._reach()
        self._connection = connection
        try:
            async with asyncio.timeout(SYNC_S) as self._patience:
                await connection.run()
        except TimeoutError as error:
            await child.end(self._settings, pid)
            raise SpeakerError(f"exabgp has not said within {SYNC_S:.0f} s how everything stands") from error
        finally:
            connection.close()
            self._connection = None
        if not connection.synced:
            raise SpeakerError(GONE)

    async def _reach(self) -> tuple[Connection, int]:
        """A connection to an exabgp with our settings, started if need be; and its process id."""
        found = await self._connect("bgp speaker found")
        if found is None:
            await child.start(self._settings)
            found = await self._connect("bgp speaker started")
        if found is None:
            raise SpeakerError(GONE)
        return found

    async def _connect(self, event: str) -> tuple[Connection, int] | None:
        """A connection to the exabgp that runs; None: none does, or it had other settings and is no more."""
        try:
            reader, writer, pid = await child.connect(self._settings)
        except OSError:
            return None
        connection, patience_s = Connection(reader, writer, self._tell), 0.0
        try:
            async with asyncio.timeout(GREETING_S):
                hello = await connection.greeting()
                if hello.settings == self._settings.name:
                    log.info(event, pid=pid)
                    return connection, pid
                await connection.ended(commands.QUIT)
                patience_s = END_S
        except TimeoutError:
            pass
        except BaseException:
            connection.close()
            raise
        connection.close()
        await child.end(self._settings, pid, patience_s)
        return None

    def _tell(self, news: Synced | tuple[Event, ...]) -> None:
        if isinstance(news, Synced):
            if self._patience is not None:
                self._patience.reschedule(None)
            self._once.over("speaker")
            self.news.put_nowait(news)
            return
        for event in news:
            self.news.put_nowait(event)
        if self.news.qsize() > MOST_NEWS and self._connection is not None:
            self._connection.close()
