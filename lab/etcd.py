"""The lab's etcd: a real one, in the fabric, on the first segment's router; must not know leases, only the network config."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from lab import LabError
from lab.logs import last_lines
from lab.place import Place
from lab.topology import Topology

PORT = 2379
CONFIG_KEY = "/coreos.com/network/config"
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


def _put(key: str, value: str) -> bool:
    """Write a key through etcd's JSON gateway; False when it does not answer or has no leader yet."""
    body = json.dumps({name: base64.b64encode(text.encode()).decode() for name, text in (("key", key), ("value", value))})
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=2)
    try:
        connection.request("POST", "/v3/kv/put", body)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
