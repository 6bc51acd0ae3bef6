"""CNI plugins without a process: ours are answered here or by flanneld, foreign ones are executed; must not know any network.

One process at a time may work on what the node holds (its journal). Where flanneld runs, it is flanneld, and it is asked over its
socket: as quick as doing it here, and pods and containers share one packet table and one pool of addresses. Else the journal is
opened here with the first call, and kept until somebody else wants it: a flanneld that starts, say, or the executable of a plugin.
Whoever wants it opens the file of its lock, of which the kernel tells us; then it is let go as soon as no call is under way.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cni.engine import UNANSWERED, Answer, opened_netns
from cni.invoke import Executables, PluginError
from cni.journal import JournalBusy
from cni.plugin import PLUGINS
from cni.service import JOURNAL, SUBNET_FILE, Service
from cni.spec import VERSIONS, CniError, Code, Command
from flanneld import FlanneldError
from flanneld.log import Log
from runtime.linux.inotify import Openings
from runtime.networks.cni_client import Question, Unanswered, ask_flanneld

log = Log(__name__)

T = TypeVar("T")

SOCKET = Path("/run/flannel/cni.sock")
PATIENCE_S = 10.0
"""For executables of plugins to leave the journal, and for a daemon that is on its way out; as theirs for us."""
LOOK_S = 0.1
"""How often it is looked, meanwhile, whether a daemon serves: then it has the journal for good."""
PAUSE_S = 0.03
"""How long we keep away from the journal when somebody wants it, who looks every 10 ms whether it is free."""


class Node:
    """The node's plugins, in this process when no other has them; safe for threads. Everything blocks."""

    def __init__(self, journal: Path = JOURNAL, daemon: Path = SOCKET, subnet_file: Path = SUBNET_FILE) -> None:
        self._journal = journal
        self._daemon = daemon
        self._subnet_file = subnet_file
        self._changed = threading.Condition()
        self._service: Service | None = None
        self._wanted_by_others: Openings | None = None
        self._users = 0
        self._leaving = False
        """The service is about to be closed, and takes no new calls."""

    def answer(self, plugin: str, environ: Mapping[str, str], stdin: bytes) -> Answer:
        """One call of one of our plugins, as its executable would answer it; raises JournalBusy, JournalError."""
        with opened_netns(environ) as netns:
            asked = Question(plugin, environ, stdin, netns)

            def here(service: Service) -> Answer:
                return service.answer(asked.plugin, asked.environ, asked.stdin, asked.netns)

            def there() -> Answer | None:
                nonlocal asked
                try:
                    return ask_flanneld(self._daemon, asked)
                except Unanswered as error:
                    log.warning("CNI call repeated", why=error, plugin=plugin)
                    asked = Question(plugin, {**environ, UNANSWERED: "1"}, stdin, netns)
                    return None

            return self._do(here, there)

    def reconcile(self) -> None:
        """Let go of what is held for containers and pods that are no more; nothing is done where flanneld does it. Raises
        FlanneldError.
        """
        nobody = Question("loopback", {"CNI_COMMAND": "VERSION"}, b"{}", None)

        def served() -> bool | None:
            try:
                return ask_flanneld(self._daemon, nobody) is not None or None
            except Unanswered:
                return None

        def here(service: Service) -> bool:
            service.reconcile()
            return True

        self._do(here, served)

    def close(self) -> None:
        """Leave the journal; what is under way in the background is finished first."""
        with self._changed:
            if self._wanted_by_others is not None:
                self._wanted_by_others.wake()
            self._changed.wait_for(lambda: self._service is None)

    def _do(self, here: Callable[[Service], T], there: Callable[[], T | None]) -> T:
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            if self._service is None and (told := there()) is not None:
                return told
            try:
                with self._used() as service:
                    return here(service)
            except JournalBusy:
                if time.monotonic() > give_up_at:
                    raise

    @contextmanager
    def _used(self) -> Iterator[Service]:
        with self._changed:
            self._changed.wait_for(lambda: not self._leaving)
            service = self._service or self._open()
            self._users += 1
        try:
            yield service
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def _open(self) -> Service:
        service = Service(self._journal, self._subnet_file, patience_s=LOOK_S)
        try:
            openings = Openings(self._journal.with_suffix(".lock"))
        except BaseException:
            service.close()
            raise
        self._service, self._wanted_by_others = service, openings
        threading.Thread(target=self._leave_when_wanted, args=(service, openings), name="journal", daemon=True).start()
        return service

    def _leave_when_wanted(self, service: Service, openings: Openings) -> None:
        wanted = openings.wait()
        with self._changed:
            self._leaving, self._wanted_by_others = True, None
            self._changed.wait_for(lambda: not self._users)
        try:
            openings.close()
            service.close()
            if wanted:
                time.sleep(PAUSE_S)
        finally:
            with self._changed:
                self._service, self._leaving = None, False
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class ResidentPlugins(Executables):
    """For a `Chain`: our own plugins by the node, all others by their executables."""

    node: Node = field(default_factory=Node)

    def call(self, plugin: str, command: Command, conf: Mapping[str, Any], about: Mapping[str, str]) -> bytes:
        """Tell a plugin to do something; returns what it printed. Raises PluginError."""
        if plugin not in PLUGINS:
            return Executables.call(self, plugin, command, conf, about)
        environ = {"CNI_PATH": ":".join(self.path), **about, "CNI_COMMAND": str(command)}
        try:
            answer = self.node.answer(plugin, environ, json.dumps(conf).encode())
        except FlanneldError as error:
            why = CniError(Code.TRY_LATER, "the node's journal cannot be had", str(error))
            raise PluginError(plugin, command, why) from error
        if answer.exit_code:
            told = json.loads(answer.stdout)
            why = CniError(told["code"], told["msg"], told.get("details", ""))
            raise PluginError(plugin, command, why, answer.stderr)
        return answer.stdout

    def versions(self, plugin: str) -> tuple[str, ...]:
        """The versions that a plugin says it speaks; raises PluginError."""
        return VERSIONS if plugin in PLUGINS else Executables.versions(self, plugin)
