"""BFD as the daemon sees it: sessions in, changes out; must not know how they are kept, nor what hangs on them.

    bfd = BfdSpeaker(Path("/run/flannel/bgp"))
    bfd.changed = ..
    bfd.follow({IPv4Address("192.0.2.2"): BfdSettings(IPv4Address("192.0.2.1"), interval_ms=100, multiplier=3)})
    await bfd.run()

The process and its sessions stay when `run` ends, for `orphan_s`; whoever comes meanwhile takes them over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bgp import process
from bgp.bfd import words
from bgp.bfd.packet import Drop, State
from bgp.bfd.service import BfdSettings, Changed
from bgp.bfd.settings import Settings, settings_for
from bgp.bfd.words import End, Follow, Hello, Report, Standing, WordsError
from bgp.process import Found, ProcessError
from flanneld.lease import IPAddress
from flanneld.log import Log, Once
from flanneld.retry import Backoff

log = Log(__name__)

SILENCE_S = 10.0
"""The process says something every second: one that says nothing for so long is stuck."""
END_S = 5.0
"""For it to end its sessions when it is asked to."""
EXIT_S = 1.0
"""For it to be gone after that."""
GONE = "the bfd process is gone"


class BfdSpeaker:
    """All sessions of this host, in a process of their own: started while some are wanted, and taken over when it is there."""

    def __init__(self, directory: Path, user: str | None = None, orphan_s: float = 120.0) -> None:
        """`directory` is in a place that survives the daemon, not the host (/run). Raises ProcessError: there is no such user."""
        self.changed: Changed = lambda peer, up, why: None
        """Called in the event loop; not for what becomes unknown, or known again, when the process is another."""
        self.states: dict[IPAddress, State] = {}
        """Of the sessions that run; none are known while the process is not there."""
        self.dropped: dict[Drop, int] = {}
        """Datagrams that were not taken, as it has counted."""
        self._settings = settings_for(directory, user, orphan_s)
        self._wanted: dict[IPAddress, BfdSettings] | None = None
        """None: not known yet; then what runs goes on as it is."""
        self._asked = asyncio.Event()
        """There may be something to start, or to end."""
        self._writer: asyncio.StreamWriter | None = None
        self._life = ""
        self._known: dict[IPAddress, Standing] = {}
        """In this life of the process, as was told last."""
        self._said = Once(log)

    def follow(self, wanted: Mapping[IPAddress, BfdSettings]) -> None:
        """Watch exactly these neighbours; the same again does nothing. As `BfdService.follow`."""
        if self._wanted == wanted:
            return
        before, self._wanted = self._wanted or {}, dict(wanted)
        for peer in before.keys() - wanted.keys():
            self._forget(peer)
        self._asked.set()
        self._tell()

    async def run(self) -> None:
        """Have the process, and a connection to it, whenever something is wanted; until cancelled."""
        backoff, loop = Backoff(0.1, 5.0), asyncio.get_running_loop()
        while True:
            await self._asked.wait()
            began = loop.time()
            why = await self._be_connected()
            if not self._wanted:
                self._said.over("process")
                backoff.reset()
                continue
            self._said.warning("process", "bfd process lost", why=why)
            if loop.time() - began >= process.STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def end(self) -> None:
        """End it for good, whoever has started it: neighbours are told that nothing has failed. Not while `run` runs."""
        # Whoever calls this may have been cancelled, and then a timeout that is over cancels it again.
        ending = asyncio.create_task(part_with(self._settings))
        await asyncio.wait((ending,))
        if error := ending.exception():
            log.warning("bfd process not ended", why=error)

    async def _be_connected(self) -> str:
        """Have a connection as long as it lasts, and return why it has ended; with nothing wanted, end the process."""
        try:
            if not self._wanted:
                self._asked.clear()
                await part_with(self._settings)
                return ""
            reader, writer = await self._reach()
            self._writer = writer
            self._tell()
            while line := await _line(reader):
                self._take(words.decode(line))
        except (ProcessError, ValueError, OSError) as error:
            return str(error)
        finally:
            if self._writer is not None:
                self._writer.transport.abort()
            self._writer, self.states = None, {}
        return GONE

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        found = await self._connect("bfd process found")
        if found is None:
            await process.start(self._settings.program)
            found = await self._connect("bfd process started")
        if found is None:
            raise ProcessError(GONE)
        return found

    async def _connect(self, event: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the process that runs; None: none does, or it was another program's and is no more."""
        try:
            reader, writer, pid = await process.connect(self._settings.socket, words.LONGEST)
        except OSError:
            return None
        try:
            if await self._is_ours(reader):
                log.info(event, pid=pid)
                return reader, writer
            await _ended(reader, writer)
        except BaseException:
            writer.transport.abort()
            raise
        writer.transport.abort()
        await process.end(self._settings.program, pid, EXIT_S)
        return None

    async def _is_ours(self, reader: asyncio.StreamReader) -> bool:
        """Hear who it is; false when it is to be another, or says nothing."""
        try:
            hello = words.decode(await _line(reader))
        except (WordsError, ProcessError):
            return False
        if not isinstance(hello, Hello) or hello.settings != self._settings.name:
            return False
        if hello.life != self._life:
            self._life, self._known, self.dropped = hello.life, {}, {}
        return True

    def _tell(self) -> None:
        """Say what is wanted, if somebody listens."""
        if self._writer is not None and self._wanted is not None:
            self._writer.write(words.encode(Follow(self._wanted) if self._wanted else End()))

    def _take(self, said: words.Said) -> None:
        if not isinstance(said, Report):
            raise WordsError(f"expected a report of the bfd process's, got {said}")
        self._said.over("process")
        self.dropped |= said.dropped
        for peer in said.gone:
            self._forget(peer)
        for peer, standing in said.sessions.items():
            if self._wanted is not None and peer in self._wanted:
                self._stands(peer, self._wanted[peer], standing)

    def _stands(self, peer: IPAddress, wanted: BfdSettings, standing: Standing) -> None:
        before, self._known[peer] = self._known.get(peer), standing
        if standing.state is None:
            self.states.pop(peer, None)
        else:
            self.states[peer] = standing.state
        if standing.trouble:
            self._said.warning(str(peer), "bfd session in trouble", peer=peer, local=wanted.local, why=standing.trouble)
        else:
            self._said.over(str(peer))
        self._tell_change(peer, before, standing)

    def _tell_change(self, peer: IPAddress, before: Standing | None, now: Standing) -> None:
        """Of a session that nobody knew, how it stands is no change, unless it is up."""
        down = before is not None and now.downs > before.downs
        if down:
            log.warning("bfd session down", peer=peer, why=now.why)
            self.changed(peer, False, now.why)
        if now.state is State.UP and (down or before is None or before.state is not State.UP):
            log.info("bfd session up", peer=peer)
            self.changed(peer, True, "none")

    def _forget(self, peer: IPAddress) -> None:
        self.states.pop(peer, None)
        self._known.pop(peer, None)


async def part_with(found: Settings | Found) -> None:
    """Have a process say to all neighbours that it ends on purpose, and end; nothing happens when none runs.

    A client that it has loses it. Raises ProcessError for a socket that is somebody else's.
    """
    settings = found if isinstance(found, Settings) else Settings(found.directory, "", 0.0)
    try:
        reader, writer, pid = await process.connect(settings.socket, words.LONGEST)
    except OSError as error:  # nobody listens: it is stuck, has ended, or was never there
        if isinstance(found, Found):
            await process.end(settings.program, found.pid)
        if isinstance(error, ConnectionRefusedError):
            settings.socket.unlink(missing_ok=True)
        return
    try:
        await _ended(reader, writer)
    finally:
        writer.transport.abort()
    await process.end(settings.program, pid, EXIT_S)
    settings.socket.unlink(missing_ok=True)


async def _ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say that it is to end, and wait until it has, or does not."""
    writer.write(words.encode(End()))
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(END_S):
            while await reader.read(1 << 16):
                pass


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line, empty at the end; raises ProcessError when there is none for long."""
    for _ in range(2):  # it is our own loop that may have been busy for so long, and the line there
        with suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S / 2):
                return await reader.readline()
    raise ProcessError(f"the bfd process has said nothing for {SILENCE_S:.0f} s")
