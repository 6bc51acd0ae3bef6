"""Giving up root for good: credentials(7), capabilities(7), prctl(2); must not know who does, nor why."""

from __future__ import annotations

import ctypes
import os
import pwd

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_CAPABILITY_VERSION_3 = 0x2008_0522  # linux/capability.h: sets of 64 bits, in two halves
_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def become(user: str) -> None:
    """Be that user and its own group alone, in this process and for good; who is nobody else keeps no capability.

    Nothing that is run from here on gains any either, set-user-ID or not. For a process of one thread. Raises OSError, and
    KeyError when there is no such user.
    """
    entry = pwd.getpwnam(user)
    if os.geteuid() == 0:
        os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    drop_capabilities()


def drop_capabilities() -> None:
    """Have no capability, whoever one is, and never gain one; raises OSError."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    # The kernel clears the other sets with the last identity 0, but inheritable it leaves; and root may have been asked for.
    _check(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), (_Sets * 2)()))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
