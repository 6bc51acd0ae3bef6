"""What is mounted in a container beside its root: the kernel's file systems, the engine's files for /etc, and what is asked for.

Must not know how a mount is made, nor where volumes are. A target is a path inside the container that an image may have made a link
of; the runtime resolves it beneath the container's root.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.config import BindOptions, HostConfig
from runtime.containers.defaults import SHM_BYTES
from runtime.containers.namespaces import HOST
from runtime.containers.propagation import Propagation, rootfs_propagation
from runtime.containers.record import MountPoint
from runtime.errors import InvalidParameter
from runtime.linux.controllers import controllers
from runtime.linux.release import kernel_version

RECURSIVE_READ_ONLY = (5, 12)
"""Linux that has mount_setattr(2) with AT_RECURSIVE."""
INIT_TARGET = "/sbin/docker-init"
_NEVER_READ_ONLY = frozenset({"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"})  # noqa: S108 - mount points of containers
"""What a read-only root does not extend to."""
_FLAGS = (
    "defaults ro rw suid nosuid dev nodev exec noexec sync async dirsync remount mand nomand atime noatime diratime nodiratime "
    "relatime norelatime strictatime nostrictatime "
    "unbindable runbindable private rprivate shared rshared slave rslave"
)
_TMPFS_FLAGS = frozenset(_FLAGS.split())
_TMPFS_VALUE = re.compile(r"(mode|uid|gid|size|nr_inodes|nr_blocks|mpol|huge)=[A-Za-z0-9:%=,._-]+")
_OPPOSITE = {"exec": "noexec", "suid": "nosuid", "dev": "nodev", "rw": "ro"} | {"noexec": "exec", "nosuid": "suid", "nodev": "dev"}


@dataclass(frozen=True, slots=True)
class Mounts:
    """OCI's mounts, in the order they are made, and linux.rootfsPropagation ("": the runtime's default)."""

    entries: list[dict[str, Any]]
    rootfs_propagation: str


def mounts(
    host: HostConfig, points: Iterable[MountPoint], etc_files: Mapping[str, Path], shm: Path | None, init: Path | None
) -> Mounts:
    """All mounts of a container; `shm`: a tmpfs of the host's that several containers share. Raises InvalidParameter."""
    tmpfs = [MountPoint(type="tmpfs", target=_clean(target), options=(text,)) for target, text in host.tmpfs.items()]
    asked = {point.target: point for point in (*tmpfs, *points)}
    standard = [entry for entry in _standard(host, shm) if not _covered(entry["destination"], asked)]
    if host.readonly_rootfs:
        standard = [_read_only(entry) if entry["destination"] not in _NEVER_READ_ONLY else entry for entry in standard]
    access = "ro" if host.readonly_rootfs else "rw"
    files = [
        _bind(target, source, "rbind", access, Propagation.RPRIVATE.value)
        for target, source in etc_files.items()
        if not _covered(target, asked)
    ]
    by_depth = sorted(asked.values(), key=lambda point: (point.target.count("/"), point.target))
    entries = [*standard, *files, *(_entry(host, point) for point in by_depth)]
    if init:
        entries.append(_bind(INIT_TARGET, init, "bind", "ro"))
    return Mounts(entries, rootfs_propagation(point for point in by_depth if point.type in ("bind", "volume")))


def tmpfs_options(text: str) -> list[str]:
    """Mount options of a --tmpfs on top of Docker's: nothing in it is run, nobody gains rights by it. Raises InvalidParameter."""
    options = ["noexec", "nosuid", "nodev", Propagation.RPRIVATE.value]
    for option in text.split(",") if text else ():
        if option not in _TMPFS_FLAGS and not _TMPFS_VALUE.fullmatch(option):
            raise InvalidParameter(f'invalid tmpfs option "{option}"')
        name = option.partition("=")[0]
        options = [old for old in options if old != _OPPOSITE.get(option) and (old.partition("=")[0] != name)]
        if option != "defaults":
            options.append(option)
    return options


def _standard(host: HostConfig, shm: Path | None) -> list[dict[str, Any]]:
    sys_access = "rw" if host.privileged else "ro"
    hardened = ("nosuid", "noexec", "nodev")
    return [
        _fresh("/proc", "proc", *hardened),
        _fresh("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _fresh("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _fresh("/sys", "sysfs", *hardened, sys_access),
        _fresh("/sys/fs/cgroup", "cgroup", sys_access, *hardened, *controllers().options),
        *_ipc(host, shm, hardened),
    ]


def _ipc(host: HostConfig, shm: Path | None, hardened: tuple[str, ...]) -> list[dict[str, Any]]:
    """Message queues, which are of the IPC namespace that the container is in, and shared memory, which is where it is mounted."""
    queues = _fresh("/dev/mqueue", "mqueue", *hardened)
    target = "/dev/shm"  # noqa: S108
    if host.ipc_mode == "none":
        return [queues]
    if source := Path(target) if host.ipc_mode == HOST else shm:
        return [queues, _bind(target, source, "bind", Propagation.RPRIVATE.value)]
    return [queues, _fresh(target, "tmpfs", *hardened, "mode=1777", f"size={host.shm_size or SHM_BYTES}", source="shm")]


def _fresh(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": list(options)}


def _bind(target: str, source: Path, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": str(source), "options": list(options)}


def _read_only(entry: dict[str, Any]) -> dict[str, Any]:
    return entry if "ro" in entry["options"] else {**entry, "options": [*entry["options"], "ro"]}


def _covered(target: str, asked: Mapping[str, MountPoint]) -> bool:
    """Whether somebody mounts something of his own there; over /dev or /sys as a whole includes what is in it."""
    return target in asked or any(top in asked and target.startswith(f"{top}/") for top in ("/dev", "/sys"))


def _clean(target: str) -> str:
    return "/" + posixpath.normpath(target).lstrip("/")


def _entry(host: HostConfig, point: MountPoint) -> dict[str, Any]:
    if point.type == "tmpfs":
        options = tmpfs_options(",".join(option for option in point.options if option))
        return _fresh(point.target, "tmpfs", *options, *(() if point.writable else ("ro",)))
    asked = next((m.bind_options for m in host.mounts if m.bind_options and _clean(m.target) == point.target), None)
    return _bind(point.target, Path(point.source), *_bind_options(point, asked or BindOptions()))


def _is_recursive(asked: BindOptions) -> bool:
    """Whether read-only reaches the mounts below, which `-v /:/host:ro` means to everybody and the kernel can since 5.12."""
    if asked.read_only_force_recursive and kernel_version() < RECURSIVE_READ_ONLY:
        raise InvalidParameter("recursive read-only mounts need Linux 5.12 or newer")
    return not asked.read_only_non_recursive and kernel_version() >= RECURSIVE_READ_ONLY


def _bind_options(point: MountPoint, asked: BindOptions) -> list[str]:
    if asked.read_only_non_recursive and asked.read_only_force_recursive:
        raise InvalidParameter("mount options conflict: ReadOnlyNonRecursive and ReadOnlyForceRecursive")
    options = ["bind" if asked.non_recursive else "rbind"]
    if not point.writable or point.type == "image":
        options.append("rro" if _is_recursive(asked) else "ro")
    return [*options, point.propagation or Propagation.RPRIVATE.value]
