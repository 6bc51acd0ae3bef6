"""The engine as a process keeps it for long: `flanneld.cni_server` loads it by name, the stand-in program uses it for one call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from pathlib import Path
from typing import Self

from cni.engine import Answer, Engine, Raw
from cni.ledger import Ledger
from cni.node import Node
from cni.plugin import load_plugin
from cni.pod_mtu import PodMtu
from cni.pods import named
from cni.result import IPNetwork
from cni.spec import CniError
from cni.undertaker import Undertaker
from flanneld import FlanneldError
from flanneld.log import Log

log = Log(__name__)

JOURNAL = Path("/var/lib/cni/tartan/journal")
SUBNET_FILE = Path("/run/flannel/subnet.env")
PATIENCE_S = 1.0
"""A daemon that looked for a moment only, now and then, would never find the journal free of the stand-ins that do its work."""
USUAL = ("bridge", "flannel", "host-local", "loopback", "portmap")
"""Plugins of nearly every pod, loaded beforehand: the first pod is to be as quick as the others."""


class ServiceError(FlanneldError):
    """What pods hold cannot be brought into order."""


class Service:
    """A node with its ledger open, in the calling process's network namespace."""

    def __init__(
        self, journal: Path = JOURNAL, subnet_file: Path = SUBNET_FILE, *, lasting: bool = True, patience_s: float = PATIENCE_S
    ) -> None:
        """Wait so long for another process to leave the journal; raises JournalBusy, JournalError.

        `lasting`: links may be removed after the answer, since this process will be there to do it.
        """
        ledger = Ledger(journal, patience_s)
        if ledger.damaged:
            log.warning("journal is damaged", path=journal, lines_lost=ledger.damaged)
        try:
            self.node = Node(ledger, subnet_file, Undertaker() if lasting else None)
        except BaseException:
            ledger.close()  # or nobody else could open it
            raise
        self._engine = Engine(self.node)
        self._mtu = PodMtu(self.node)
        for name in USUAL if lasting else ():
            load_plugin(name)

    def answer(
        self, plugin: str, environ: Mapping[str, str], stdin: bytes, netns: int | None, alive: Callable[[], None] = lambda: None
    ) -> Answer:
        """Answer one call of one plugin; never raises. `netns` is an open descriptor, which stays the caller's."""
        return self._engine.answer(Raw(plugin, environ, stdin, netns), alive)

    def reconcile(self) -> None:
        """Bring pods to their network's MTU, let go of what is held for those that are no more, and put the packet table right.

        Raises FlanneldError.
        """
        self._mtu.follow()
        try:
            gone = self.node.reconcile()
        except CniError as error:
            raise ServiceError(str(error)) from error
        if gone:
            log.info("let go of dead pods", records=gone)

    def pods(self, subnets: Collection[IPNetwork]) -> tuple[str, ...]:
        """Who is attached with an address in these subnets, in words."""
        return named(self.node.ledger.records(), subnets)

    def changes(self) -> AsyncGenerator[None, None]:
        """Yields when somebody else touched the packet table: a reason to reconcile."""
        return self.node.table.changes()

    def close(self) -> None:
        """Finish what is under way in the background."""
        self.node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
