"""flanneld on the hosts, as a user would start it; must not know what it does."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from lab import LabError
from lab.logs import last_lines
from lab.place import Place

PROGRAM = (sys.executable, "-P", "-m", "flanneld")  # -P: nothing is imported from wherever the user happens to be
HEALTH_PORT = 8471
START_S = 15.0


class Health(Enum):
    """What a host's flanneld says about itself."""

    READY = "ready"
    """It has a lease, and all peers are programmed."""
    NOT_READY = "not ready"
    ABSENT = "not running"


def start_flanneld(
    host: Place, url: str, log: Path, program: Sequence[str] = PROGRAM, flags: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start it with the lab's flags, and `flags` after them: the later wins, but for `--iface`, which adds."""
    usual = [f"--etcd-endpoints={url}", "--iface=eth0", "--ip-masq", f"--healthz-port={HEALTH_PORT}"]
    return host.start([*program, *usual, *flags], log)


def health(host: Place) -> Health:
    """Ask the host's flanneld."""
    return host.call(_readyz)


def await_ready(host: Place, flanneld: subprocess.Popen[str], log: Path) -> None:
    """Wait until it is ready; raises LabError with its last words when it ends or takes too long."""
    until = time.monotonic() + START_S
    while health(host) is not Health.READY:
        if flanneld.poll() is not None:
            raise LabError(f"flanneld on {host.name} ended with exit code {flanneld.returncode}:\n{last_lines(log)}")
        if time.monotonic() > until:
            raise LabError(f"flanneld on {host.name} is not ready after {START_S:.0f} s:\n{last_lines(log)}")
        time.sleep(0.02)


def _readyz() -> Health:
    connection = http.client.HTTPConnection("127.0.0.1", HEALTH_PORT, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return Health.READY if connection.getresponse().status == http.HTTPStatus.OK else Health.NOT_READY
    except ConnectionRefusedError:
        return Health.ABSENT
    except (OSError, http.client.HTTPException):
        return Health.NOT_READY
    finally:
        connection.close()
