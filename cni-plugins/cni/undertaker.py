"""Removes host links in the background: the kernel takes some 20 ms over each, and works for one of them; must not know whose."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from flanneld import FlanneldError
from flanneld.linux.links import remove_links
from flanneld.linux.netlink import Netlink
from flanneld.log import Log

log = Log(__name__)

PATIENCE_S = 5.0
"""For links that are on their way out; they take 0.1 s at most."""


class Undertaker:
    """One thread, which removes all that came meanwhile in one request: one after the other, 100 links would take 2 s."""

    def __init__(self) -> None:
        """The links are those of the calling thread's network namespace."""
        self._netlink = Netlink()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._under_way: dict[str, Callable[[], None]] = {}
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="undertaker", daemon=True)
        self._thread.start()

    def take(self, names: Collection[str], done: Callable[[], None]) -> None:
        """Remove links soon, then call `done` in another thread; it may be called once for each link."""
        with self._changed:
            self._waiting.update(dict.fromkeys(names, done))
            self._changed.notify_all()

    def settled(self, names: Collection[str]) -> bool:
        """Wait until none of these is on its way out; false if that took too long."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(name in self._waiting or name in self._under_way for name in names), PATIENCE_S
            )

    def names(self) -> set[str]:
        """What is on its way out."""
        with self._changed:
            return {*self._waiting, *self._under_way}

    def close(self) -> None:
        """Finish what has been taken, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._netlink.close()

    def _work(self) -> None:
        while self._next():
            try:
                remove_links(self._netlink, list(self._under_way))
                for done in set(self._under_way.values()):
                    done()
            except FlanneldError as error:  # the ledger still has them: the next reconcile tries again
                log.warning("links not removed", links=", ".join(self._under_way), why=error)
            except Exception:  # a fault of ours; without this thread no link would ever go
                log.exception("links not removed", links=", ".join(self._under_way))
            with self._changed:
                self._under_way = {}
                self._changed.notify_all()

    def _next(self) -> bool:
        """Wait for work and put it under way; false at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._waiting, self._under_way = {}, self._waiting
            return bool(self._under_way)
