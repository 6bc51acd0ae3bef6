"""What pods leave behind on a lab's host: everything of theirs that can be seen there, each thing in a line of text.

Must not know runtimes or plugins: a test takes the traces before and after, and what is new was left.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab.pods import NETNS, LabHost

CGROUPS = Path("/sys/fs/cgroup")
CNI_STATE = Path("/var/lib/cni")
NAMESPACES = (NETNS, Path("/run/tartan/netns"))
"""Where runtimes keep network namespaces."""
SETTLE_S = 5.0
"""How long what is on its way out may take: plugins may answer DEL first and delete the link afterwards."""


def traces(host: LabHost, cgroup: str) -> set[str]:
    """Links and the bridges they are in, network namespaces, files of CNI, firewall rules and chains, processes.

    `cgroup` is the parent of the containers' control groups, a name that nobody else on the machine uses.
    """
    found = {f"process {pid} {command}" for pid, command in processes(host, cgroup)}
    for link in json.loads(host.run(["ip", "-j", "link"]).stdout):
        found.add(f"link {link['ifname']}" + (f" in {link['master']}" if "master" in link else ""))
    return found | host.call(_files) | _rules(host)


def left_behind(host: LabHost, cgroup: str, before: set[str], permanent: str) -> list[str]:
    """Traces that were not there before and do not match `permanent`, once they have had time to go."""
    until = time.monotonic() + SETTLE_S
    while True:
        left = [trace for trace in sorted(traces(host, cgroup) - before) if not re.fullmatch(permanent, trace)]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.1)


def processes(host: LabHost, cgroup: str) -> Iterator[tuple[int, str]]:
    """All that live in the host's mount namespace or in a control group below: shims and conmon, and what is in containers."""
    home = next(path for path in host.namespaces if path.name == "mnt").stat().st_ino
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if (entry / "ns/mnt").stat().st_ino == home or f"/{cgroup}/" in (entry / "cgroup").read_text():
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def end_cgroup(cgroup: str) -> None:
    """Kill what still is in it and remove it, in every hierarchy; a harness's last resort, and its sweep."""
    until = time.monotonic() + SETTLE_S
    while (groups := _groups(cgroup)) and time.monotonic() < until:
        for directory in sorted({path for group in groups for path in (group, *group.rglob("*/"))}, reverse=True):
            with suppress(OSError):
                for pid in map(int, (directory / "cgroup.procs").read_text().split()):
                    os.kill(pid, signal.SIGKILL)
            with suppress(OSError):  # EBUSY: somebody in it is still dying
                directory.rmdir()
        time.sleep(0.01)


def _groups(cgroup: str) -> list[Path]:
    """The group in the unified hierarchy (cgroup v2), or in each of the others (v1)."""
    return [path for path in (CGROUPS / cgroup, *CGROUPS.glob(f"*/{cgroup}")) if path.is_dir()]


def _files() -> set[str]:
    found = {f"netns {name}" for place in NAMESPACES if place.is_dir() for name in os.listdir(place)}
    return found | {f"file {path}" for path in CNI_STATE.rglob("*") if not path.is_dir()}


def _rules(host: LabHost) -> set[str]:
    """Firewall rules and chains that somebody made, without counters: `iptables-save nat: -A ...`, `nft table ip nat: chain A`."""
    found, table = set(), ""
    for program in ("iptables-save", "ip6tables-save"):
        for line in host.run([program]).stdout.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A") or line.endswith(" - [0:0]"):  # a chain with a policy is the table's own
                found.add(f"{program} {table}: {line.removesuffix(' - [0:0]')}")
    around: list[str] = []
    for line in map(str.strip, host.run(["nft", "--stateless", "list", "ruleset"]).stdout.splitlines()):
        if line.endswith("{"):
            around.append(line.removesuffix(" {"))
        if line == "}":
            around.pop()
        elif line and not line.startswith(("#", "type ")):
            found.add(f"nft {': '.join(around if line.endswith('{') else [*around, line])}")
    return found
