"""A host's own view of the machine's files: what differs from the machine's is private to it; must not know networks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from flanneld.linux.netns import Mount, mount, unmount
from lab.pods import furnish_for_pods
from lab.state import LABS
from lab.topology import Topology

PRIVATE = (Path("/run"), Path("/var/lib"))
"""Where daemons and CNI plugins keep what belongs to one host: empty and in memory."""


def furnishing(topology: Topology, name: str, *, pods: bool = True) -> Callable[[], None]:
    """What `keep_namespaces` is to call inside the new namespaces of the host or router `name`; `pods`: it may get some."""
    known = [(ip.ip, each.name) for each in topology.machines for ip in each.addresses]
    hosts_file = "".join(f"{ip}\t{host}\n" for ip, host in [("127.0.0.1", "localhost"), ("::1", "localhost"), *known])

    def furnish() -> None:
        socket.sethostname(name)
        mount("", "/", flags=Mount.PRIVATE | Mount.REC)
        for lab in LABS.iterdir():
            unmount(lab)  # our copies of its namespaces would keep them alive after that lab's end
        for path in PRIVATE:
            mount("tmpfs", path, "tmpfs", options="mode=0755")
        _renew_sys()
        own = Path("/run/hosts")
        own.write_text(hosts_file)
        if Path("/etc/hosts").exists():
            mount(own, "/etc/hosts", flags=Mount.BIND)
        if pods:
            furnish_for_pods()

    return furnish


def _renew_sys() -> None:
    """A sysfs shows the network interfaces of the namespace that it was mounted in; what is mounted in it stays."""
    fresh = Path("/run/sys")
    fresh.mkdir()
    mount("sysfs", fresh, "sysfs")
    for path in _mounts_in(Path("/sys")):
        mount(path, fresh / path.relative_to("/sys"), flags=Mount.BIND | Mount.REC)
    mount(fresh, "/sys", flags=Mount.MOVE)
    fresh.rmdir()


def _mounts_in(parent: Path) -> list[Path]:
    """The topmost mount points below (proc(5): the fifth field of mountinfo)."""
    fields = [line.split() for line in Path("/proc/thread-self/mountinfo").read_text().splitlines()]
    below = {path for field in fields if (path := Path(field[4])) != parent and path.is_relative_to(parent)}
    return sorted(path for path in below if not below.intersection(path.parents))
