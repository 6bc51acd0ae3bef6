"""One container as the engine holds it: its record, its lock, who waits for it and what runs of it; must not know any verb."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.containers.bundle import ROOT
from runtime.containers.holdings import Holdings
from runtime.containers.origin import BUILD, SANDBOX
from runtime.containers.record import Record, State
from runtime.containers.records import write_record
from runtime.containers.rootfs import Place, RootFs
from runtime.containers.transitions import ALIVE, check_move
from runtime.containers.waiting import Condition, WaitResult, Waits

if TYPE_CHECKING:
    from runtime.containers.monitor import Monitor
    from runtime.images.layers import Layers
    from runtime.layout import Layout


class Container:
    """Whoever changes the record or what runs holds `lock`; reading needs none, all happens on one loop."""

    def __init__(self, record: Record, layout: Layout, layers: Layers) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.waits = Waits()
        self.monitor: Monitor | None = None
        """Holds its streams; there before the start when somebody has attached already."""
        self.holdings: Holdings | None = None
        """What it has of the host while it runs."""
        self.doomed = False
        """Somebody is removing it: it may be stopped, never started."""
        self.kept = False
        """A user restarts it: its end is no reason to remove it."""
        self.restart_delay_s = 0.0
        """What its last restart by policy waited; 0: there was none."""
        self.restart: asyncio.Task[None] | None = None
        """Waits to start it again."""
        self.directory: Path = layout.container(record.id)
        self.bundle: Path = layout.bundle(record.id)
        place = Place(
            self.directory, self.bundle / ROOT, record.layer, volatile=record.host.auto_remove or record.kind in (BUILD, SANDBOX)
        )
        self.root = RootFs(layers, place)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def state(self) -> State:
        return self.record.life.state

    @property
    def is_running(self) -> bool:
        """Whether it has a process, paused or not."""
        return self.state in ALIVE

    @property
    def log_path(self) -> Path | None:
        """Where its output is written; None: nowhere."""
        return Path(self.record.log_path) if self.record.log_path else None

    @property
    def rootfs(self) -> Path:
        """Where its root is mounted while it runs, or within `mounted()`."""
        return self.root.path

    @property
    def lowers(self) -> tuple[Path, ...]:
        """Its image's layers, topmost first."""
        return self.root.lowers

    @property
    def upper(self) -> Path:
        """Its writable layer."""
        return self.directory / "upper"

    @asynccontextmanager
    async def mounted(self) -> AsyncIterator[Path]:
        """The mounted root, whether it runs or not; without its volumes when it does not. Raises OSError, EngineError."""
        async with self.root.mounted() as path:
            yield path

    def change(self, **fields: Any) -> None:
        """Replace these fields of the record, in memory."""
        self.record = msgspec.structs.replace(self.record, **fields)

    def live(self, **fields: Any) -> None:
        """Replace these fields of the record's life, in memory; a state only along `transitions.MOVES`."""
        check_move(self.state, fields.get("state", self.state))
        self.change(life=msgspec.structs.replace(self.record.life, **fields))

    async def save(self, record: Record | None = None) -> None:
        """Write the record, or what it is about to be, to disk; raises OSError. Power loss may take one that goes at its end."""
        await asyncio.to_thread(write_record, self.directory, record or self.record, durable=not self.root.is_volatile)

    def wait(self, condition: Condition) -> asyncio.Future[WaitResult]:
        """Its end of that kind, counted from this call on."""
        life = self.record.life
        idle = condition is Condition.NOT_RUNNING and not self.is_running and self.state is not State.RESTARTING
        return self.waits.register(condition, WaitResult(life.exit_code, life.error) if idle else None)

    def facts(self, **more: str) -> dict[str, str]:
        """What events say of it."""
        config = self.record.config
        return {**config.labels, "image": config.image, "name": self.name, **more}
