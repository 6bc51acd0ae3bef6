"""A lab's directory: what it is made of, so that another process finds it, and can take all of it away, however its maker ended.

/run/tartan/labs/NAME/           a private tmpfs of the lab's own
    state.json                   the topology; written before anything is made
    fabric/  outside/  HOST/     net, uts, mnt: the namespaces' files; logs, pods.json
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from flanneld.linux.netns import Mount, mount, unmount
from lab import LabError
from lab.processes import end_inhabitants
from lab.topology import Topology, document, parse_topology

LABS = Path("/run/tartan/labs")


def lab_names() -> list[str]:
    """Every lab of this machine, half-made ones too."""
    return sorted(path.name for path in LABS.iterdir()) if LABS.is_dir() else []


def directory_of(name: str) -> Path:
    """Where the lab lives, if it does; raises LabError for what is no name."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
        raise LabError(f"lab name {name!r}: expected 1 to 32 of a-z, 0-9 and '-'")
    return LABS / name


def claim(name: str, topology: Topology) -> Path:
    """Take the name and write down what the lab is to be; raises LabError when there is such a lab."""
    directory = directory_of(name)
    _make(directory)
    try:
        mount("tmpfs", directory, "tmpfs", options="mode=0755")
        # On a shared mount the kernel refuses files of mount namespaces.
        mount("", directory, flags=Mount.PRIVATE)
        write_json(directory / "state.json", document(topology))
    except BaseException:
        release(name)
        raise
    return directory


def _make(directory: Path) -> None:
    while True:
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            raise LabError(f"lab {directory.name!r} is already up; `tartan lab down --name {directory.name}` ends it") from None
        except FileNotFoundError:
            continue  # another lab's end took the empty parent away meanwhile
        return


def recall(name: str) -> Topology:
    """What the lab was to be; raises LabError when it is not up."""
    try:
        return parse_topology(json.loads((directory_of(name) / "state.json").read_text()))
    except FileNotFoundError:
        up = ", ".join(lab_names()) or "none"
        raise LabError(f"lab {name!r} is not up (labs here: {up}); `tartan lab up --name {name}` makes it") from None


def release(name: str) -> bool:
    """End every process of the lab and take away all that is its own; False when there is no such lab.

    May be repeated, and called by several processes at once.
    """
    directory = directory_of(name)
    if not directory.is_dir():
        return False
    end_inhabitants([path for path in directory.glob("*/*") if path.is_file()])
    unmount(directory)
    # This also takes off the copies that mount namespaces made since hold, and so frees what they keep alive.
    with suppress(FileNotFoundError):  # another process was at it too, and is done
        directory.rmdir()
    for parent in (LABS, LABS.parent):
        with suppress(OSError):  # other labs are up
            parent.rmdir()
    return True


def write_json(path: Path, value: object) -> None:
    """Replace the file at once and whole."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(value, indent=1))
    draft.replace(path)
