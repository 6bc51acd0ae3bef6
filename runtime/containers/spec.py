"""From a container's record to the OCI document that a runtime executes (runtime-spec 1.0.2); must not know who runs it.

Nothing is made here: what the document names (root, files, working directory) its caller makes before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.config import HostConfig
from runtime.containers.capabilities import capabilities
from runtime.containers.devices import devices
from runtime.containers.mounts import INIT_TARGET, Mounts, mounts
from runtime.containers.namespaces import HOST, namespaces, other
from runtime.containers.paths import paths
from runtime.containers.process import first_process
from runtime.containers.process import process_spec as process_spec
from runtime.containers.record import MountPoint, Record
from runtime.containers.resources import resources
from runtime.containers.rlimits import rlimit_warnings, rlimits
from runtime.containers.seccomp import default_seccomp, parse_profile
from runtime.containers.security import UNCONFINED, Security, parse_security
from runtime.containers.sysctls import sysctls
from runtime.errors import EngineError, InvalidParameter
from runtime.linux.clamp import Held, held
from runtime.linux.controllers import controllers
from runtime.linux.security_modules import apparmor_enabled

OCI_VERSION = "1.0.2"
"""Later ones some runtimes refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a container is given by its host for this one start."""

    rootfs: Path
    """Mounted, and no symlink."""
    cgroup: str
    """Absolute, within each hierarchy: "/tartan/ID"."""
    pid_of: Callable[[str], int]
    """First process of another container, whose namespaces are joined; raises Conflict when it has none."""
    netns: str = ""
    """Path of a network namespace; host; "": a new one with nothing but lo."""
    hostname: str = ""
    """"": the record's."""
    etc_files: Mapping[str, Path] = field(default_factory=dict)
    """Target in the container -> file of the host."""
    mounts: tuple[MountPoint, ...] = ()
    """The record's, with the sources of volumes and images."""
    shm: Path | None = None
    """A tmpfs of the host's for /dev/shm, which containers of one IPC namespace share; None: one of its own."""
    init: Path | None = None
    """A static init, for `--init`."""
    held: Held | None = None
    """What the engine can hand on; None: what it has."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A bundle's config.json, and what of the record's wishes it leaves out."""

    document: dict[str, Any]
    warnings: list[str]


def build_spec(record: Record, given: Given) -> Spec:
    """The document of a container's next start; the working directory must exist by then.

    Raises InvalidParameter for what makes no sense in this root or on this host, and what `given.pid_of` raises.
    """
    host, holds = record.host, given.held or held()
    _refuse_device_requests(host)
    _refuse_linked_dev(given.rootfs)
    security = parse_security(host.security_opt)
    hostname = given.hostname or record.config.hostname
    uses_init = bool(host.init and given.init and not other(host.pid_mode) and host.pid_mode != HOST)
    process = first_process(record, given.rootfs, hostname, holds)
    if uses_init:
        process["args"] = [INIT_TARGET, "--", *process["args"]]
    _limit(process, host, holds, security)
    mounted = mounts(host, given.mounts, given.etc_files, given.shm, given.init if uses_init else None)
    document: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": str(given.rootfs), "readonly": host.readonly_rootfs},
        "mounts": mounted.entries,
        "linux": _linux(record, given, mounted, process["capabilities"]["bounding"]),
    }
    if host.annotations:
        document["annotations"] = dict(host.annotations)
    if hostname and not host.uts_mode:
        document["hostname"] = hostname
    return Spec(document, spec_warnings(host, holds))


def _refuse_device_requests(host: HostConfig) -> None:
    for request in host.device_requests:
        driver, kinds = request.get("Driver") or "", request.get("Capabilities") or []
        words = " ".join(f"[{' '.join(kind)}]" for kind in kinds)
        raise EngineError(f'could not select device driver "{driver}" with capabilities: [{words}]')


def _refuse_linked_dev(rootfs: Path) -> None:
    """runc makes links in /dev by a path not resolved beneath the root: were it a link, they would be made on the host."""
    if (rootfs / "dev").is_symlink():
        raise InvalidParameter("the image's /dev is a symbolic link, expected a directory")


def _limit(process: dict[str, Any], host: HostConfig, holds: Held, security: Security) -> None:
    process["rlimits"] = rlimits(host.ulimits, holds)
    process["noNewPrivileges"] = security.no_new_privileges
    # Always said, for a runtime's parent may have made itself dear to the OOM killer.
    process["oomScoreAdj"] = max(host.oom_score_adj, holds.oom_score_floor)
    if security.apparmor and apparmor_enabled():
        process["apparmorProfile"] = security.apparmor


def _linux(record: Record, given: Given, mounted: Mounts, granted: list[str]) -> dict[str, Any]:
    host = record.host
    security = parse_security(host.security_opt)
    masked, read_only = ([], []) if security.unconfined_paths else paths(host)
    found = devices(host)
    linux: dict[str, Any] = {
        "namespaces": namespaces(host, given.netns, given.pid_of, controllers().version),
        "cgroupsPath": given.cgroup,
        "resources": {"devices": found.rules, **resources(host)},
        "devices": found.nodes,
        "maskedPaths": masked,
        "readonlyPaths": read_only,
        "sysctl": sysctls(record.config, host, given.netns),
    }
    if mounted.rootfs_propagation:
        linux["rootfsPropagation"] = mounted.rootfs_propagation
    seccomp = _seccomp(host, security, granted)
    return linux | ({"seccomp": seccomp} if seccomp else {})


def _seccomp(host: HostConfig, security: Security, granted: list[str]) -> dict[str, Any]:
    """Privileged containers have a filter only when one is asked for."""
    if security.seccomp == UNCONFINED or (host.privileged and not security.seccomp):
        return {}
    return parse_profile(security.seccomp, granted) if security.seccomp else default_seccomp(granted)


def spec_warnings(host: HostConfig, holds: Held) -> list[str]:
    """What a container asks for and cannot have here, in sentences; raises InvalidParameter for what is no such thing."""
    warnings = rlimit_warnings(host.ulimits, holds)
    if refused := capabilities(host, holds).refused:
        warnings.append(f"The engine itself does not have {', '.join(refused)}: the container goes without.")
    if host.oom_score_adj < holds.oom_score_floor:
        warnings.append(f"The engine cannot lower an oom_score_adj to {host.oom_score_adj}; {holds.oom_score_floor} it is.")
    security = parse_security(host.security_opt)
    if security.apparmor not in ("", UNCONFINED) and not apparmor_enabled():
        warnings.append("AppArmor is not enabled here. Profile discarded.")
    if any(label != "disable" for label in security.labels):
        warnings.append("Security labels are not supported. Labels discarded.")
    return warnings
