"""The node that plugins work on: its kernel, what is held on it, and how that is let go; must not know any plugin.

A plugin writes down what it is about to make (`holding`), makes it, and returns; letting go (`release`) needs the record alone, so
that it works for a dead plugin, after a crash and without the configuration.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cni.files import read_file, remove_file
from cni.ledger import HeldAddress, HeldElement, HeldFile, HeldLink, Holding, Key, Ledger, Netns, Record, State
from cni.packet_table import PacketTable
from cni.plugin import Request
from cni.spec import CniError, Code
from cni.undertaker import Undertaker
from flanneld.kernel import KernelError
from flanneld.linux.links import link, links, remove_link
from flanneld.linux.netlink import Netlink
from flanneld.linux.netns import setns
from flanneld.log import Log

log = Log(__name__)


class Node:
    """One per process and network namespace. Safe for threads: each has sockets of its own."""

    def __init__(self, ledger: Ledger, subnet_file: Path, undertaker: Undertaker | None = None) -> None:
        """With an undertaker links are removed in the background, else before `release` returns."""
        self.ledger = ledger
        self.subnet_file = subnet_file
        """What the flannel plugin reads where its configuration does not say."""
        self.table = PacketTable(self._held_elements)
        self.making_bridges = threading.Lock()
        """One at a time makes a bridge fit for a pod, since the first two pods may come at once."""
        self._undertaker = undertaker
        self._own_netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._threads = threading.local()
        self._sockets: list[Netlink] = []
        self._locks: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()
        self._locks_lock = threading.Lock()

    @property
    def netlink(self) -> Netlink:
        """This thread's socket in the host's namespace."""
        found: Netlink | None = getattr(self._threads, "netlink", None)
        if found is None:
            found = self._threads.netlink = Netlink()
            self._sockets.append(found)
        return found

    @contextmanager
    def inside(self, netns: int) -> Iterator[Netlink]:
        """This thread is in the pod's namespace for the block, with a socket there; raises OSError (EINVAL: no namespace)."""
        _ = self.netlink  # if it were opened in the block, it would be in the pod for good
        setns(netns)
        try:
            with Netlink() as inside:
                yield inside
        finally:
            setns(self._own_netns)

    def is_own(self, netns: int) -> bool:
        """Whether it is the host's own namespace."""
        return os.path.samestat(os.fstat(netns), os.fstat(self._own_netns))

    @contextmanager
    def container(self, container_id: str) -> Iterator[None]:
        """One call at a time for a container."""
        with self._locks_lock:
            lock = self._locks.setdefault(container_id, threading.Lock())
            self._users[container_id] += 1
        try:
            with lock:
                yield
        finally:
            with self._locks_lock:
                self._users[container_id] -= 1
                if not self._users[container_id]:
                    del self._users[container_id], self._locks[container_id]

    @contextmanager
    def holding(self, request: Request, *holdings: Holding, mtu_from: str | None = None) -> Iterator[None]:
        """Write down what the block makes; let it go again if the block fails. Raises CniError when it is held already."""
        former = self.ledger.record(request.key, request.plugin)
        if former is not None:
            self._replace(former, request)
        record = replace(self._record(request, holdings), mtu_from=mtu_from)
        self.ledger.write(record)
        try:
            yield
        except BaseException:
            self.release(record)
            raise
        self.ledger.advance(record, State.MADE)

    def hold(self, request: Request, *holdings: Holding) -> Record:
        """Write down what is made at once after; the caller releases it if that fails."""
        record = replace(self._record(request, holdings), state=State.MADE)
        self.ledger.write(record)
        return record

    def _record(self, request: Request, holdings: tuple[Holding, ...]) -> Record:
        return Record(request.key, request.plugin, holdings, self._netns(request), caller=request.caller, pod=request.pod)

    def is_same(self, record: Record, netns: int) -> bool:
        """Whether the record is about this namespace; where we could not see it, the path has to do."""
        at = os.fstat(netns)
        return record.netns is None or (record.netns.device, record.netns.inode) == (at.st_dev, at.st_ino)

    def _replace(self, former: Record, request: Request) -> None:
        """An ADD without a DEL between: what is left of the pod's former life goes, a second attachment of the name is refused."""
        self.settled(request.key)
        if self.ledger.record(request.key, request.plugin) is None:
            return
        tied = [held.name for held in former.of(HeldLink) if held.tied]
        there = all(link(self.netlink, name) is not None for name in tied)
        if former.state is State.MADE and there and request.netns is not None and self.is_same(former, request.netns):
            raise CniError(Code.FAILED, f"{request.key} is attached already by plugin {request.plugin!r}")
        self.release(former)
        self.settled(request.key)

    def release(self, record: Record) -> None:
        """Let go of all that the record holds; may be repeated. What cannot be let go now stays in the ledger, and raises."""
        self.table.take(record.elements)
        for address in record.of(HeldAddress):
            _unlink_claim(Path(address.pool) / str(address.ip), record.key)
        for file in record.of(HeldFile):
            remove_file(file.path)
        names = [link.name for link in record.of(HeldLink)]
        if names and self._undertaker is not None:
            going = replace(record, state=State.GOING, holdings=record.of(HeldLink))
            self.ledger.write(going)
            self._undertaker.take(names, lambda: self.ledger.drop(going))
            return
        for name in names:
            remove_link(self.netlink, name)
        self.ledger.drop(record)

    def release_of(self, key: Key, plugin: str) -> None:
        """Let go of what a plugin holds for an attachment, if anything."""
        record = self.ledger.record(key, plugin)
        if record is not None and (record.state is not State.GOING or self._undertaker is None):
            self.release(record)

    def release_invalid(self, request: Request, valid: Collection[Key]) -> None:
        """Garbage collection of a plugin: let go of what it holds in the network for others than these."""
        for record in self.ledger.records(request.network):
            if record.plugin == request.plugin and record.key not in valid:
                with self.container(record.key.container_id):
                    self.release_of(record.key, record.plugin)

    def settled(self, key: Key) -> None:
        """Wait until nothing is on its way out for the attachment; raises CniError (11)."""
        if self._undertaker is not None and not self._undertaker.settled(
            [link.name for record in self.ledger.records(key.network) if record.key == key for link in record.of(HeldLink)]
        ):
            raise CniError(Code.TRY_LATER, f"the links of {key} are still being removed")

    def settle(self) -> bool:
        """Return when all links are gone that are on their way out now; whether there were any."""
        if self._undertaker is not None:
            going = self._undertaker.names()
            return bool(going) and self._undertaker.settled(going)
        left = [record for record in self.ledger.records() if record.state is State.GOING]  # by a process that died over them
        for record in left:
            self.release(record)
        return bool(left)

    def reconcile(self) -> int:
        """Let go of what is held for pods that are no more, and put the packet table right; returns how many records went."""
        keys = dict.fromkeys(record.key for record in self.ledger.records())
        present = {found.name for found in links(self.netlink)}
        gone = sum(self._reconcile_attachment(key, present) for key in keys)
        if self.ledger.earlier_boot:
            self.ledger.begin_boot()
        self.table.reconcile()
        return gone

    def _reconcile_attachment(self, key: Key, present: Collection[str]) -> int:
        def there(name: str) -> bool:
            return name in present or link(self.netlink, name) is not None  # it may have come since all were listed

        with self.container(key.container_id):
            records = [record for record in self.ledger.records(key.network) if record.key == key]
            lives = not self.ledger.earlier_boot and is_alive(records, there)
            # In the process that made them, GOING records are in the undertaker's hands.
            dead = [record for record in records if not lives or not is_finished(record, records)]
            for record in dead:
                try:
                    self.release(record)
                except (KernelError, OSError, CniError) as error:
                    log.warning("not released", attachment=key, plugin=record.plugin, why=error)
            return len(dead)

    def _held_elements(self) -> list[HeldElement]:
        with self.ledger.lock:
            return [element for record in self.ledger.records() for element in record.elements]

    def _netns(self, request: Request) -> Netns | None:
        """The pod's namespace if its path leads there for us too: we may have another view of the files than the runtime."""
        if request.netns is None:
            return None
        at = os.fstat(request.netns)
        with suppress(OSError):
            if os.path.samestat(at, os.stat(request.call.netns)):
                return Netns(request.call.netns, at.st_dev, at.st_ino)
        return None

    def close(self) -> None:
        if self._undertaker is not None:
            self._undertaker.close()
        self.table.close()
        for opened in self._sockets:
            opened.close()
        self.ledger.close()
        os.close(self._own_netns)


def _unlink_claim(path: Path, key: Key) -> None:
    """Take an address's file away, unless it is another program's claim, which came between; an empty one died in the making."""
    claim = read_file(path)
    if claim is not None and claim.decode(errors="replace").partition("\n")[0].strip() in ("", key.container_id):
        remove_file(path)


def is_alive(records: Collection[Record], there: Callable[[str], bool]) -> bool:
    """Whether the attachment's pod is still there: a veth goes with its pod's namespace; without one the namespace's path tells."""
    tied = [held.name for record in records if record.state is State.MADE for held in record.of(HeldLink) if held.tied]
    if tied:
        return all(map(there, tied))
    return all(_is_there(record.netns) for record in records if record.netns is not None)


def is_finished(record: Record, records: Collection[Record]) -> bool:
    """Whether an ADD came to its end: the plugin's own, and that of the one that delegated to it; if nobody is at it now."""
    callers = [other for other in records if other.plugin == record.caller]
    return record.state is State.MADE and (not record.caller or any(is_finished(caller, records) for caller in callers))


def _is_there(netns: Netns) -> bool:
    try:
        at = os.stat(netns.path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return (at.st_dev, at.st_ino) == (netns.device, netns.inode)
