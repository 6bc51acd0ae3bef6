"""Whether mounts made later pass between host and container: mount_namespaces(7); must not know what is mounted where.

A shared bind works only when its source is on a shared mount, and the container's root lets events through.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import StrEnum

from runtime.containers.record import MountPoint
from runtime.errors import InvalidParameter
from runtime.linux.mountinfo import Mounted, mounts_of


class Propagation(StrEnum):
    """Of one bind; r: of the mounts below it, too."""

    PRIVATE = "private"
    RPRIVATE = "rprivate"
    SHARED = "shared"
    RSHARED = "rshared"
    SLAVE = "slave"
    RSLAVE = "rslave"


_SHARED = (Propagation.SHARED, Propagation.RSHARED)
_SLAVE = (Propagation.SLAVE, Propagation.RSLAVE)


def rootfs_propagation(binds: Iterable[MountPoint], mounts: Sequence[Mounted] | None = None) -> str:
    """OCI's linux.rootfsPropagation for all binds together, "": the default; raises InvalidParameter when a source forbids it."""
    found = ""
    for bind in binds:
        if bind.propagation in _SHARED:
            _require(bind.source, mounts, "shared:", what="a shared")
            found = Propagation.SHARED.value
        elif bind.propagation in _SLAVE:
            _require(bind.source, mounts, "shared:", "master:", what="a shared or slave")
            found = found or Propagation.RSLAVE.value
    return found


def _require(source: str, mounts: Sequence[Mounted] | None, *tags: str, what: str) -> None:
    place = _mount_of(os.path.realpath(source), mounts or mounts_of())
    if not any(tag.startswith(tags) for tag in place.propagation):
        raise InvalidParameter(f"path {source} is mounted on {place.target} but it is not {what} mount")


def _mount_of(path: str, mounts: Sequence[Mounted]) -> Mounted:
    """The mount that a path is on: of those above it the nearest, of several in one place the last, which covers the others."""
    above = [mount for mount in mounts if path == mount.target or path.startswith(mount.target.rstrip("/") + "/")]
    return max(reversed(above), key=lambda mount: len(mount.target))
