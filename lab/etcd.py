"""The lab's etcd: a real one, in the fabric, on the first segment's router; must not know leases, only the network config."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import LabError
from lab.logs import last_lines
from lab.place import Place
from lab.topology import Topology

PORT = 2379
CONFIG_KEY = "/coreos.com/network/config"
SUBNETS = "/coreos.com/network/subnets/"
START_S = 15.0
"""Ten times what it takes on a busy machine."""


def etcd_url(topology: Topology) -> str:
    """Where every host finds it."""
    return f"http://{topology.segments[0].routers[0].ip}:{PORT}"


def start_etcd(fabric: Place, url: str, directory: Path) -> subprocess.Popen[str]:
    """Start it with its data and log in `directory`. Nothing is synced, as it is in memory; elections are quick."""
    peer = "http://127.0.0.1:2380"
    argv = ["etcd", f"--data-dir={directory / 'etcd'}", "--logger=zap", "--log-level=warn", "--unsafe-no-fsync"]
    argv += ["--heartbeat-interval=10", "--election-timeout=100"]
    argv += [f"--listen-client-urls={url},http://127.0.0.1:{PORT}", f"--advertise-client-urls={url}"]
    argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"]
    try:
        return fabric.start(argv, directory / "etcd.log")
    except FileNotFoundError:
        raise LabError("there is no program etcd on the PATH; Debian's package etcd-server has it") from None


def configure(fabric: Place, etcd: subprocess.Popen[str], network: Mapping[str, object], log: Path) -> None:
    """Wait until etcd answers, and write the network config; raises LabError with its last words."""
    until = time.monotonic() + START_S
    while not fabric.call(_put, CONFIG_KEY, json.dumps(network)):
        if etcd.poll() is not None or time.monotonic() > until:
            raise LabError(f"etcd does not start:\n{last_lines(log)}")
        time.sleep(0.01)


def exchange_backend(fabric: Place, backend: Mapping[str, object]) -> None:
    """Write the network config anew, with this as its `Backend`; raises LabError."""
    config = json.loads(fabric.call(_values, CONFIG_KEY)[0])
    kept = {key: value for key, value in config.items() if key.lower() != "backend"}
    if not fabric.call(_put, CONFIG_KEY, json.dumps({**kept, "Backend": backend})):
        raise LabError("etcd does not take the new network config")


def published_backends(fabric: Place) -> dict[str, str]:
    """The backend type that each lease names, by the public IP of its host; empty for udp and alloc. Raises LabError."""
    leases = [json.loads(value) for value in fabric.call(_values, SUBNETS, prefix=True)]
    return {str(lease["PublicIP"]): str(lease.get("BackendType", "")) for lease in leases}


def _put(key: str, value: str) -> bool:
    """Write a key; False when etcd does not answer or has no leader yet."""
    try:
        _post("put", {"key": _encode(key), "value": _encode(value)})
    except LabError:
        return False
    return True


def _values(key: str, *, prefix: bool = False) -> list[str]:
    """What is under a key, or under all that begin so; raises LabError."""
    end = {"range_end": _encode(key[:-1] + chr(ord(key[-1]) + 1))} if prefix else {}
    found = _post("range", {"key": _encode(key), **end}).get("kvs", [])
    return [base64.b64decode(kv["value"]).decode() for kv in found]


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _post(verb: str, body: Mapping[str, object]) -> dict[str, Any]:
    """One call of etcd's JSON gateway; raises LabError."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=2)
    try:
        connection.request("POST", f"/v3/kv/{verb}", json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise LabError(f"etcd answers {answer.status} to a {verb}: {text[:200].decode(errors='replace')}")
        found: dict[str, Any] = json.loads(text)
        return found
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LabError(f"etcd does not answer: {error}") from error
    finally:
        connection.close()
