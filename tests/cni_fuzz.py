"""Calls of plugins that nobody should make, and a host that they are made on; must not know how plugins read them.

The host's whole file system is read-only, but for its own /run and /var/lib: a configuration may name any file.
"""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cni_held
from cni.ledger import read_ledger
from cni.spec import Code
from cni_chain import host_local
from cni_ours import STATE, SUBNET_FILE
from cni_processes import Nursery, ServedHost, served_host
from cni_spoilt import CHAINED, CONFIGURATIONS, UPLINK
from cni_world import Attachment, Json, Sandbox
from flanneld.linux.netns import Mount, mount

SOON_S = 5.0
BOUND_S = 2.0
"""For one call, on a machine that others use too."""
CODES = {int(code) for code in Code}
WRITABLE = ("/run", "/var/lib", "/proc", "/sys", "/dev")
READ_ONLY = Mount(1 | 1 << 5 | Mount.BIND)  # MS_RDONLY, MS_REMOUNT of linux/mount.h
LEASE = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"


@dataclass(frozen=True)
class Heard:
    """What came of a call."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    wall_s: float

    def is_proper(self) -> bool:
        """Succeeded, or refused as the spec wants it (CNI spec 1.1.0 §2, §5)."""
        if self.exit_code == 0 and not self.stdout:
            return True
        told = json.loads(self.stdout.decode())
        if self.exit_code == 0:
            return isinstance(told["cniVersion"], str)
        proper = isinstance(told["cniVersion"], str) and isinstance(told["msg"], str) and isinstance(told.get("details", ""), str)
        return self.exit_code == 1 and proper and told["code"] in CODES


@dataclass
class FuzzedHost:
    """A host with one pod that is attached and one that is not."""

    served: ServedHost
    thread: ThreadPoolExecutor
    """In the host's namespaces."""
    inside: tuple[ThreadPoolExecutor, ...]
    """In the pods'."""
    bare: Sandbox
    base: Attachment
    result: Json
    walls_s: list[float] = field(default_factory=list)

    def execute(self, plugin: str, environ: Mapping[bytes, bytes], stdin: bytes) -> Heard:
        program = str(self.served.host.plugins.directory / plugin)
        begun = time.monotonic()
        ended = self.thread.submit(
            subprocess.run, [program], input=stdin, env=environ, capture_output=True, check=False, timeout=60
        ).result()
        heard = Heard(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - begun)
        self.walls_s.append(heard.wall_s)
        return heard

    def environ(self, command: str, plugin: str) -> dict[bytes, bytes]:
        """That of a call which could succeed."""
        about = self.base if plugin in CHAINED else Attachment("fuzzed", str(self.bare.path), "eth1")
        told = {**about.environment(), "CNI_COMMAND": command, "CNI_PATH": "/run/nowhere"}
        return {name.encode(): value.encode() for name, value in told.items()}

    def conf(self, plugin: str) -> Json:
        conf = {"cniVersion": "1.1.0", "name": "net", "type": plugin, **copy.deepcopy(dict(CONFIGURATIONS[plugin]))}
        return {**conf, "prevResult": copy.deepcopy(self.result)} if plugin in CHAINED else conf

    def state(self) -> tuple[object, ...]:
        """What a call could leave, but for bridges, which stay for the next pod."""
        return (*self.thread.submit(_state).result(), *(each.submit(_links).result() for each in self.inside))

    def fuzz(self, plugin: str, environ: Mapping[bytes, bytes], stdin: bytes) -> Heard:
        """Call, check the answer, undo what succeeded, and check that nothing is left."""
        before = self.state()
        heard = self.execute(plugin, environ, stdin)
        about = f"{plugin} {shown(environ)} {shown(stdin)}: {shown(heard)}"
        assert heard.is_proper(), about
        assert heard.wall_s < BOUND_S, about
        if heard.exit_code == 0 and environ.get(b"CNI_COMMAND") == b"ADD":
            undone = self.execute(plugin, {**environ, b"CNI_COMMAND": b"DEL"}, stdin)
            assert undone.exit_code == 0, f"{about}; DEL: {undone}"
        give_up_at = time.monotonic() + SOON_S
        while (after := self.state()) != before and time.monotonic() < give_up_at:
            time.sleep(0.005)
        assert after == before, about
        assert not self.served.faults(), f"{about}: {self.served.faults()}"
        return heard

    def median_s(self) -> float:
        return statistics.median(self.walls_s)


def shown(value: object) -> str:
    return re.sub(r"(.)\1{50,}", lambda run: f"{run[1]}*{len(run[0])}", repr(value))[:4000]


def _state() -> tuple[object, ...]:
    return {record.key: record for record in read_ledger(STATE)}, _files(), _links()


def _links() -> set[str]:
    return {name for _, name in socket.if_nameindex() if not os.path.isdir(f"/sys/class/net/{name}/bridge")}


def _files() -> set[str]:
    roots = ("/var/lib", "/run")
    found = {os.path.join(directory, name) for root in roots for directory, _, names in os.walk(root) for name in names}
    return {path for path in found if "last_reserved_ip" not in path and not path.startswith(str(STATE))}


@contextmanager
def fuzzed_host(nursery: Nursery, directory: Path) -> Iterator[FuzzedHost]:
    """Fails at the end if anything is left, descriptors and threads of the server included."""
    with served_host(nursery, directory) as served, ExitStack() as stack:
        host = served.host
        host.place.call(_protect)
        host.put(str(SUBNET_FILE), LEASE)
        host.ip(f"link add {UPLINK} type veth peer name wire\nlink set {UPLINK} up\nlink set wire up")
        served.start()
        base, bare = host.attachment(), host.sandbox("bare")
        conf = {"cniVersion": "1.1.0", "name": "base", "type": "bridge", "bridge": "base0", "ipam": host_local("10.10.0.0/24")}
        result = host.add(conf, base)
        threads = [
            stack.enter_context(ThreadPoolExecutor(1, initializer=place.enter))
            for place in (host.place, bare.place, host.of(base).place)
        ]
        fuzzed = FuzzedHost(served, threads[0], tuple(threads[1:]), bare, base, result)
        fuzzed.execute("bridge", fuzzed.environ("STATUS", "bridge"), json.dumps(fuzzed.conf("bridge")).encode())
        elements = cni_held.elements(host)
        yield fuzzed
        served.kill(15)  # and a reconcile, after which no subnet is remembered
        served.start()
        assert cni_held.elements(host) == elements
        host.delete(conf, base)


def _protect() -> None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        path = line.split()[4]
        if not any(path == kept or path.startswith(f"{kept}/") for kept in WRITABLE):
            with suppress(OSError):  # hidden under another mount
                mount("", path, flags=READ_ONLY)
    try:
        (Path.cwd() / "written").touch()
    except OSError:
        return
    raise AssertionError("the machine's files can be written")
