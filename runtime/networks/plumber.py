"""Sandboxes made and unmade, in the kernel and on disk: namespace, interfaces, routes, ports; must not know names or events.

Everything blocks. What is about to be made is on disk before it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from flanneld.linux import netns
from flanneld.linux.links import remove_link
from flanneld.log import Log
from runtime.networks.attach import Attacher
from runtime.networks.plans import publisher, with_attached
from runtime.networks.sandbox import Attached, Sandbox, Sandboxes, set_default_routes

log = Log(__name__)


class Plumber:
    """Works on one engine's sandboxes; raises FlanneldError (EngineError of an attachment), OSError."""

    def __init__(self, directory: Path, attacher: Attacher) -> None:
        self._files = Sandboxes(directory)
        self._attacher = attacher

    def path(self, container_id: str) -> str:
        """Where a container's namespace is, or would be."""
        return str(self._files.path(container_id))

    def build(self, sandbox: Sandbox) -> Sandbox:
        """Make all of it; returns it with what was given. When it raises, `demolish` takes away what is there."""
        self._files.write(sandbox)
        with self._files.make(sandbox.id) as inside:
            for attached in sandbox.attached:
                sandbox = with_attached(sandbox, self._attacher.attach(sandbox, attached))
            set_default_routes(inside, sandbox.attached)
        self._files.write(sandbox)
        return sandbox

    def demolish(self, sandbox: Sandbox) -> None:
        """Give all of it back; what cannot be given back is logged."""
        detached = [self._attacher.detach(sandbox, attached) for attached in reversed(sandbox.attached)]
        try:
            self._files.remove(sandbox.id)
        except OSError as error:
            log.warning("namespace not removed", container=sandbox.short_id, why=error)
        if not all(detached):  # a plugin of the administrator's has failed, say; addresses are to be given back all the same
            self._attacher.reconcile()

    def extend(self, wider: Sandbox, plan: Attached) -> Sandbox:
        """Make one more attachment, which `wider` has as planned; returns it with what was given."""
        self._files.write(wider)
        return self.settle(with_attached(wider, self._attacher.attach(wider, plan)))

    def unplug(self, sandbox: Sandbox, gone: Attached) -> None:
        """Have the interface gone when this returns: plugins let go of links a little later."""
        self._attacher.detach(sandbox, gone)
        with netns.netlink_in(sandbox.netns) as inside:
            remove_link(inside, gone.ifname)

    def settle(self, sandbox: Sandbox) -> Sandbox:
        """Have routes and published ports as the present attachments want them."""
        with netns.netlink_in(sandbox.netns) as inside:
            set_default_routes(inside, sandbox.attached)
        chosen = publisher(sandbox.attached)
        if sandbox.ports and chosen is not None and chosen.ifname != sandbox.published_by:
            for attached in sandbox.attached:
                if attached.ifname == sandbox.published_by:
                    self._attacher.publish(sandbox, attached, {})
            self._attacher.publish(sandbox, chosen, sandbox.ports)
            sandbox = msgspec.structs.replace(sandbox, published_by=chosen.ifname)
        self._files.write(sandbox)
        return sandbox

    def read_all(self) -> Iterator[Sandbox]:
        """Those that were built and not demolished, by whatever engine."""
        return self._files.read_all()
