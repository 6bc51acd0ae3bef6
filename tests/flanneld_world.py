"""flanneld as a process on a lab's hosts, beside a real etcd: what its tests start, change, read and wait for."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lab.daemon import HEALTH_PORT, PROGRAM
from lab.etcd import PORT
from lab.lab import Lab
from lab.place import Place
from lab.pods import SUBNET_FILE, LabHost
from lab.topology import generate

T = TypeVar("T")

WAIT_S = 15.0
"""For what takes a fraction of a second on a machine that has nothing else to do."""
REPAIR_S = 3.0
"""The same for what users are promised "within a second or so"."""
PREFIX = "/coreos.com/network"
NETWORK: Mapping[str, object] = {"Network": "10.244.0.0/16", "EnableNFTables": True, "Backend": {"Type": "vxlan"}}
MOST_LINES = 40
"""A daemon that says more than this in a test has begun to flood."""


def eventually(look: Callable[[], T], what: str, within_s: float = WAIT_S) -> T:
    """Look until there is something to see."""
    until = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < until, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)
    return seen


@dataclass(frozen=True)
class Key:
    value: str
    lease: int
    """0: attached to none."""


@dataclass(frozen=True)
class LabEtcd:
    """An administrator's hand, through etcd's JSON gateway."""

    fabric: Place

    def put(self, key: str, value: str, lease: int = 0) -> None:
        self._post("kv/put", {"key": _encode(key), "value": _encode(value), "lease": lease})

    def put_all(self, values: Mapping[str, str]) -> None:
        puts = [{"requestPut": {"key": _encode(key), "value": _encode(value)}} for key, value in values.items()]
        self._post("kv/txn", {"success": puts})

    def delete(self, prefix: str) -> None:
        self._post("kv/deleterange", _range(prefix))

    def keys(self, prefix: str = f"{PREFIX}/subnets/") -> dict[str, Key]:
        """By what comes after the prefix."""
        found = self._post("kv/range", _range(prefix)).get("kvs", [])
        return {_decode(kv["key"]).removeprefix(prefix): Key(_decode(kv.get("value", "")), int(kv.get("lease", 0))) for kv in found}

    def grant(self, ttl_s: int) -> int:
        return int(self._post("lease/grant", {"TTL": ttl_s})["ID"])

    def ttl_s(self, lease: int) -> int:
        return int(self._post("kv/lease/timetolive", {"ID": lease})["TTL"])

    def reads(self) -> int:
        """How often anybody has read a key."""

        def get() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=WAIT_S)
            try:
                connection.request("GET", "/metrics")
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        (count,) = (line.split()[1] for line in self.fabric.call(get).splitlines() if line.startswith("etcd_mvcc_range_total"))
        return int(float(count))

    def _post(self, call: str, body: object) -> dict[str, Any]:
        def post() -> dict[str, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=WAIT_S)
            try:
                connection.request("POST", f"/v3/{call}", json.dumps(body))
                answer: dict[str, Any] = json.loads(connection.getresponse().read())
            finally:
                connection.close()
            assert "error" not in answer, answer
            return answer

        return self.fabric.call(post)


def _range(prefix: str) -> dict[str, str]:
    return {"key": _encode(prefix), "range_end": _encode(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return base64.b64decode(text).decode()


@dataclass(frozen=True)
class Flanneld:
    """One daemon and what it says."""

    host: LabHost
    process: subprocess.Popen[str]
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """The whole log; a traceback, or anything else that is no log line, fails here."""
        return [json.loads(line) for line in self.log.read_text().split("\n")[:-1]]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def await_said(self, event: str, within_s: float = WAIT_S) -> dict[str, Any]:
        """The first time that it said so."""

        def look() -> list[dict[str, Any]]:
            said = self.said(event)
            assert said or self.process.poll() is None, f"exit code {self.process.returncode} instead of {event!r}: {self}"
            return said

        try:
            return eventually(look, repr(event), within_s)[0]
        except AssertionError as error:
            raise AssertionError(f"{error} from {self}") from None  # with what it has said until now

    def ready(self) -> Flanneld:
        self.await_said("ready")
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.exit_code()

    def exit_code(self) -> int:
        return self.process.wait(WAIT_S)

    def fails(self) -> str:
        """Its last words, once it has given up."""
        code = self.exit_code()
        assert code == 1, f"exit code {code}: {self}"
        last = self.lines()[-1]
        assert (last["event"], last["level"]) == ("failed", "error")
        return str(last["why"])

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024

    def __str__(self) -> str:
        return f"flanneld on {self.host.name}:\n{self.log.read_text()}"


@dataclass
class World:
    """A lab with an etcd, and no flanneld until a test starts one."""

    lab: Lab
    etcd: LabEtcd
    daemons: list[Flanneld] = field(default_factory=list)
    most_lines: int = MOST_LINES

    def configure(self, network: Mapping[str, object] | str, prefix: str = PREFIX) -> None:
        self.etcd.put(f"{prefix}/config", network if isinstance(network, str) else json.dumps(network))

    def start(self, host: str, *flags: str, environ: Mapping[str, str] | None = None, before: Sequence[str] = ()) -> Flanneld:
        """Start flanneld with these flags and variables after the usual ones; `before` is a command that runs it."""
        place = self.lab.host(host)
        log = place.directory / f"flanneld-{uuid.uuid4().hex[:8]}.log"
        there = replace(place, environment={**place.environment, "PYTHONWARNINGS": "always", **(environ or {})})
        usual = ("--log-format=json", "--ip-masq", f"--healthz-port={HEALTH_PORT}")
        self.daemons.append(Flanneld(place, there.start([*before, *PROGRAM, *usual, *flags], log), log))
        return self.daemons[-1]

    def stop(self) -> None:
        """End every daemon at once, and look at what they have said."""
        ended, self.daemons = self.daemons, []
        for one in ended:
            one.process.kill()
            one.process.wait()
        for one in ended:
            assert len(one.lines()) <= self.most_lines, f"a flood: {one}"


def run(host: Place, line: str, *, check: bool = True) -> str:
    """What a command prints."""
    return host.run(line.split(), check=check).stdout


def show(host: Place, line: str, *, check: bool = True) -> list[dict[str, Any]]:
    """What `ip` or `bridge` says, without the empty objects with which it leaves things out."""
    program, *arguments = line.split()
    found: list[dict[str, Any]] = json.loads(run(host, f"{program} -j -d {' '.join(arguments)}", check=check) or "[]")
    return [item for item in found if item]


def readyz(host: LabHost, port: int = HEALTH_PORT, path: str = "/readyz") -> tuple[int, str]:
    """Status and text of flanneld's answer to a probe; (0, "") for none."""

    def get() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            return 0, ""
        finally:
            connection.close()

    return host.call(get)


def subnet_env(host: LabHost, path: Path = SUBNET_FILE) -> str:
    """The file's text; "" without a file."""
    return host.call(lambda: path.read_text() if path.exists() else "")


def write_file(host: LabHost, path: Path, text: str) -> None:
    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    host.call(write)


def own_subnet(host: LabHost, path: Path = SUBNET_FILE) -> str:
    """The subnet that the host's flanneld wrote down, as `10.244.7.0`."""
    env = dict(line.split("=", 1) for line in subnet_env(host, path).splitlines())
    return str(env["FLANNEL_SUBNET"].rsplit(".", 1)[0]) + ".0"


def traces(host: LabHost) -> set[str]:
    """Everything that flanneld could have left on a host."""
    found = {f"link {link['ifname']}" for link in show(host, "ip link") if link["ifname"].startswith("flannel")}
    for protocol in (84, 85):
        found |= {f"route {route}" for route in run(host, f"ip route show table all proto {protocol}").splitlines()}
    rules = run(host, "nft list tables") + run(host, "iptables-save") + run(host, "ip6tables-save")
    found |= {line for line in rules.splitlines() if "flannel" in line.lower()}
    return found | set(host.call(lambda: os.listdir("/run/flannel") if os.path.isdir("/run/flannel") else []))


def vxlan_lease(ip: str, mac: str, vni: int = 1) -> str:
    """What a vxlan host publishes."""
    data = f'{{"VNI":{vni},"VtepMAC":"{mac}"}}'
    return f'{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{data}}}'


def hostgw_lease(ip: str) -> str:
    return f'{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"host-gw"}}'


def vxlan_entries(host: LabHost, device: str = "flannel.1") -> set[str]:
    """Routes, neighbours and FDB of a VXLAN device, each in a line; nothing when there is no device."""
    routes, neighbours, fdb = (
        show(host, f"{line} show dev {device}", check=False) for line in ("ip route", "ip neigh", "bridge fdb")
    )  # fmt: skip
    found = {f"route {route['dst']} via {route.get('gateway')} {' '.join(route['flags'])}" for route in routes}
    found |= {f"neigh {entry['dst']} {entry['lladdr']} {' '.join(entry['state'])}" for entry in neighbours}
    return found | {f"fdb {entry['mac']} {entry['dst']} {entry['state']}" for entry in fdb}


def peer_entries(subnet: str, ip: str, mac: str) -> set[str]:
    """The three of them that one vxlan peer needs; `subnet` without its /24."""
    return {f"route {subnet}/24 via {subnet} onlink", f"neigh {subnet} {mac} PERMANENT", f"fdb {mac} {ip} permanent"}


@contextmanager
def flanneld_world(hosts: int = 1, network: Mapping[str, object] = NETWORK, **lab: Any) -> Iterator[World]:
    """A lab of its own; what ran in it is ended, and its logs are looked at."""
    topology = replace(generate(hosts, **lab), network=network)
    with Lab.up(topology, name=f"t{uuid.uuid4().hex[:8]}", start_daemons=False) as up:
        world = World(up, LabEtcd(up.fabric))
        try:
            yield world
        finally:
            world.stop()
