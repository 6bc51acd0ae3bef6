"""The files that flanneld and Go flannel keep: subnet.env, what lies beside it, and /run/flannel."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from flanneld.remembered import beside, state_of
from tartan.leftovers import Leftover

RUN = Path("/run/flannel")
"""flannel's own directory: subnet.env, the CNI socket, a WireGuard key."""


def files(subnet_file: Path, run: Path = RUN) -> Iterator[Leftover]:
    """The files to remove; of a directory that is not flannel's, only what flanneld puts there."""
    known = [subnet_file, beside(subnet_file), *sorted(subnet_file.parent.glob(f".{subnet_file.name}.*"))]
    for path in known:
        if path.is_relative_to(run) or path.is_dir() or not (path.exists() or path.is_symlink()):
            continue
        yield Leftover(f"file {path}", partial(path.unlink, missing_ok=True))
    state = state_of(subnet_file)
    if state.is_dir() and not state.is_relative_to(run):
        yield Leftover(f"directory {state}", partial(shutil.rmtree, state, ignore_errors=True))
    if run.is_symlink():
        yield Leftover(f"link {run}", partial(run.unlink, missing_ok=True))
    elif run.is_dir() and (not run.is_mount() or any(run.iterdir())):
        inside = " ".join(sorted(path.name for path in run.iterdir())) or "nothing"
        yield Leftover(f"directory {run}, in it {inside}", partial(empty, run))


def empty(directory: Path) -> None:
    """Remove all that is in a directory, and the directory itself, unless something is mounted there; may be repeated."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    try:
        directory.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
