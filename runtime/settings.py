"""How an engine is set up: every default, with its reason; must not know who asks.

Taken from the flags of `tartan runtime serve` (`tartan/runtime.py`), whose names are dockerd's where dockerd has one.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from runtime.layout import RUN, Layout

MIB = 1 << 20
DOCKER_SOCKET, CRI_SOCKET = "docker.sock", "cri.sock"
"""In the directory that a reboot clears."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One engine."""

    layout: Layout = field(default_factory=Layout)
    socket: Path = RUN / DOCKER_SOCKET
    """The Engine API's."""
    cri_socket: Path | None = RUN / CRI_SOCKET
    """CRI's; None: not served, which saves the memory of a gRPC server."""
    group: str = "docker"
    """Members may use the Engine API, which makes them root; a group that does not exist: root alone."""
    runc: str = ""
    """The OCI runtime; "": runc as found beside this interpreter, else on PATH."""
    registry_mirrors: tuple[str, ...] = ()
    """URLs tried first for Docker Hub's images."""
    insecure_registries: tuple[str, ...] = ()
    """host[:port] or CIDR, spoken to over plain HTTP or with any certificate; loopback always is."""
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    cni_bin_dir: Path = Path("/opt/cni/bin")
    dns: tuple[str, ...] = ()
    """For containers that name none; empty: the host's."""
    bip: str = "172.17.0.1/16"
    """Address of docker0 and its network."""
    address_pools: tuple[tuple[str, int], ...] = (
        *((f"172.{second}.0.0/16", 16) for second in range(18, 32)),
        ("192.168.0.0/16", 20),
    )
    """(pool, prefix length): what networks without a subnet get, the first that nothing on the host overlaps."""
    log_max_bytes: int = 10 * MIB
    """A container's log is rotated at this size, unless it says otherwise: Docker's default fills disks."""
    log_max_files: int = 5
    labels: tuple[str, ...] = ()
    """"key=value", shown by `docker info`."""

    @property
    def runc_program(self) -> str:
        """Path of the OCI runtime; "runc" when it is nowhere, so that the error names it."""
        beside = Path(sys.executable).parent / "runc"
        return self.runc or (str(beside) if beside.exists() else shutil.which("runc") or "runc")
