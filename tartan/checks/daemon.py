"""flanneld itself: it runs, it says that it is ready, and pods' plugins are served."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Sequence

from flanneld.flags import Options
from tartan.checks.finding import Finding, error, ok, warning
from tartan.running import Running

TIMEOUT_S = 3.0
LOG = "journalctl -u flanneld, or wherever its stderr goes"


def check_running(running: Sequence[Running], *, claimed: bool) -> list[Finding]:
    """`claimed`: one of ours serves a network here, be its process visible or not."""
    if running:
        return [ok("flanneld", f"runs as process {' '.join(str(one.pid) for one in running)}")]
    if claimed:
        return [ok("flanneld", "runs, as a process that cannot be seen from here")]
    return [
        error(
            "flanneld", "does not run on this host: nothing is repaired, the lease is not renewed", "pgrep -a flanneld", "start it"
        )
    ]


def readyz(options: Options) -> tuple[int, str]:
    """Status and text; raises OSError when nobody answers."""
    address = "127.0.0.1" if options.healthz_ip.is_unspecified else str(options.healthz_ip)
    connection = http.client.HTTPConnection(address, options.healthz_port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except http.client.HTTPException as failure:
        raise OSError(f"what answers is no flanneld: {failure!r}") from failure
    finally:
        connection.close()


def check_health(options: Options) -> list[Finding]:
    """What the daemon says of itself, where it says anything."""
    if not options.healthz_port:
        return [ok("health", "is not served (--healthz-port)")]
    shown_by = f"curl http://127.0.0.1:{options.healthz_port}/readyz"
    try:
        status, text = readyz(options)
    except OSError as failure:
        return [
            error(
                "health",
                f"port {options.healthz_port} does not answer: {failure}",
                shown_by,
                "see flanneld's log; compare --healthz-port",
            )
        ]
    if status == http.client.OK:
        return [ok("health", text.strip())]
    return [error("health", ": ".join(text.strip().splitlines()), shown_by, f"see flanneld's log ({LOG})")]


def check_cni(options: Options) -> list[Finding]:
    """The socket that our plugins ask; without it each call starts a process of its own, which works and is slow."""
    if not options.cni_socket:
        return [ok("cni", "is not served (--cni-socket)")]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        try:
            client.connect(options.cni_socket)
        except OSError as failure:
            why = f"nobody answers at {options.cni_socket} ({failure.strerror or failure}): pods start slowly"
            return [warning("cni", why, f"ss -xl src {options.cni_socket}", "see flanneld's log; compare --cni-socket")]
    return [ok("cni", f"plugins are served at {options.cni_socket}")]
