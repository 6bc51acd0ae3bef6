"""Room for control groups when the engine itself runs in a container: v2 hands controllers out only from a group without processes.

That is the "no internal process constraint" of the kernel's Documentation/admin-guide/cgroup-v2.rst. The root that a container sees
is its own group, which has all its processes. Must not know what runs there, nor what will be limited.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from flanneld.log import Log
from runtime.linux.controllers import CGROUPS

log = Log(__name__)

_ASIDE = "init"
"""Where processes go; Docker's own image of Docker calls it so."""
_ROUNDS = 10
"""Of moving: what a process not yet moved has started meanwhile comes with the next."""


def make_room(root: Path = CGROUPS) -> None:
    """Let groups below `root` have limits, once it is a container's: its processes go to a group beside those.

    Nothing happens on the machine's own root, with v1, and a second time. Where it cannot be had it is logged.
    """
    if not (root / "cgroup.type").exists():  # the machine's own, or v1
        return
    wanted = _words(root / "cgroup.controllers") - _words(root / "cgroup.subtree_control")
    if not wanted:
        return
    try:
        _move(root, root / _ASIDE)
        for controller in sorted(wanted):
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
    except OSError as error:
        log.warning("containers cannot be limited here", group=root, why=(error.strerror or "").lower())
    else:
        log.info("made room for control groups", group=root, processes=root / _ASIDE)


def _move(group: Path, aside: Path) -> None:
    aside.mkdir(exist_ok=True)
    for _ in range(_ROUNDS):
        # 0 is a process that we do not see, and to whoever writes it, himself.
        pids = _words(group / "cgroup.procs") - {"0"}
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                (aside / "cgroup.procs").write_text(pid)


def _words(file: Path) -> set[str]:
    return set(file.read_text().split())
