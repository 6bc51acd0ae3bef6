"""Layers seen as one file tree: overlayfs (kernel's Documentation/filesystems/overlayfs.rst); must not know what the layers are.

Where the kernel has it (6.7), each lower directory is given by itself (fsconfig(2)), and there is no limit but overlayfs's own 500.
Before, all of them have to fit one page: they are named from their common directory, by a thread that works there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from flanneld.linux import netns
from runtime.linux.flatten import flatten
from runtime.linux.release import kernel_version

OPTIONS = {"index": "off", "redirect_dir": "off", "metacopy": "off"}
"""What distributions turn on is turned off: an upper directory has to be a layer by itself, and may be mounted again elsewhere."""
ONE_BY_ONE = (6, 7)
"""Linux that has overlayfs's lowerdir+; an older one would write into its log that it has not, for each container."""
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432  # syscall numbers on every architecture
_AT_FDCWD = -100
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # enum fsconfig_command (linux/mount.h)
_EMPTY_PATH = 4  # MOVE_MOUNT_F_EMPTY_PATH
_LONGEST_STRING = 255
_PAGE = 4096
_FLATTENED = "flattened"
"""File in `work`: `upper` has a copy of the layers."""
_libc = ctypes.CDLL(None, use_errno=True)


def mount_overlay(lowers: Sequence[Path], upper: Path, work: Path, target: Path, *, volatile: bool) -> None:
    """Mount `upper`, to which all changes go, over the lower directories, topmost first, privately. Blocking; raises OSError.

    `work`: a directory beside `upper`, for overlayfs and us. Volatile: nothing is ever synced; after power loss `upper` is worth
    nothing. Where overlayfs cannot be (on another overlayfs, on NFS), the lower directories are copied into `upper`, once.
    """
    if not lowers:
        netns.mount(upper, target, flags=netns.Mount.BIND)
    else:
        # An earlier volatile mount left word that nobody has synced it; whoever mounts again has decided that it is good.
        shutil.rmtree(work / "work" / "incompat" / "volatile", ignore_errors=True)
        try:
            _mount(lowers, upper, work, target, volatile=volatile)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV) or not _flattened(lowers, upper, work):
                raise
            netns.mount(upper, target, flags=netns.Mount.BIND)
    netns.mount("none", target, flags=netns.Mount.PRIVATE)


def _flattened(lowers: Sequence[Path], upper: Path, work: Path) -> bool:
    """Have the layers' copy in `upper`; False: there is something else, which overlayfs once wrote there."""
    if (work / _FLATTENED).exists():
        return True
    if os.listdir(upper):
        return False
    flatten(lowers, upper)
    (work / _FLATTENED).touch()
    return True


def _mount(lowers: Sequence[Path], upper: Path, work: Path, target: Path, *, volatile: bool) -> None:
    texts = (*map(str, lowers), str(upper), str(work))
    if kernel_version() < ONE_BY_ONE or max(map(len, texts)) > _LONGEST_STRING:
        return mount_at_once(lowers, upper, work, target, volatile=volatile)
    try:
        return mount_one_by_one(lowers, upper, work, target, volatile=volatile)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
    return mount_at_once(lowers, upper, work, target, volatile=volatile)


def mount_one_by_one(lowers: Sequence[Path], upper: Path, work: Path, target: Path, *, volatile: bool) -> None:
    """By fsconfig(2); raises OSError: ENOSYS and EINVAL before Linux 6.7, EINVAL where overlayfs cannot be."""
    context = _call(_FSOPEN, b"overlay", _CLOEXEC)
    try:
        for lower in lowers:
            _set(context, "lowerdir+", str(lower))
        for key, value in (*OPTIONS.items(), ("upperdir", str(upper)), ("workdir", str(work))):
            _set(context, key, value)
        if volatile:
            _call(_FSCONFIG, context, _SET_FLAG, b"volatile", None, 0)
        _set(context, "source", "overlay")
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        mounted = _call(_FSMOUNT, context, _CLOEXEC, 0)
        try:
            _call(_MOVE_MOUNT, mounted, b"", _AT_FDCWD, os.fsencode(target), _EMPTY_PATH)
        finally:
            os.close(mounted)
    finally:
        os.close(context)


def mount_at_once(lowers: Sequence[Path], upper: Path, work: Path, target: Path, *, volatile: bool) -> None:
    """By mount(2); raises OSError: E2BIG when the names do not fit a page, EINVAL where overlayfs cannot be."""
    start = os.path.commonpath(lowers) if len(lowers) > 1 else lowers[0].parent
    named = ":".join(_escaped(os.path.relpath(lower, start)) for lower in lowers)
    fixed = [f"{key}={value}" for key, value in OPTIONS.items()] + ["volatile"] * volatile
    options = ",".join([f"lowerdir={named}", f"upperdir={_escaped(str(upper))}", f"workdir={_escaped(str(work))}", *fixed])
    if len(os.fsencode(options)) >= _PAGE:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), str(target))

    def work_there() -> None:
        netns.unshare(netns.Clone.FS)
        os.chdir(start)
        netns.mount("overlay", target.absolute(), "overlay", options=options)

    netns.in_thread(work_there)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _set(context: int, key: str, value: str) -> None:
    _call(_FSCONFIG, context, _SET_STRING, key.encode(), os.fsencode(value), 0)


def _call(number: int, *arguments: int | bytes | None) -> int:
    typed = [ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument) for argument in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *typed))
    if result < 0:
        code = ctypes.get_errno()
        named = next(
            (os.fsdecode(argument) for argument in reversed(arguments) if isinstance(argument, bytes) and argument), "overlay"
        )
        raise OSError(code, os.strerror(code), named)
    return result
