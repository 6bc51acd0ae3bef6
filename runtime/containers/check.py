"""Whether a container's settings make sense, in Docker's words, before anything is made of them.

They are refused by InvalidParameter; what merely cannot be had on this host comes back as warnings. Must not know other containers,
images or networks: what depends on those is checked where they are.
"""

from __future__ import annotations

import posixpath
import re

from runtime.config import ContainerConfig, CreateRequest, Healthcheck, HostConfig
from runtime.containers.check_resources import check_resources
from runtime.containers.devices import check_access, parse_rule
from runtime.containers.mounts import tmpfs_options
from runtime.containers.namespaces import HOST, check_modes, other
from runtime.containers.process import check_path, working_directory
from runtime.containers.seccomp import parse_profile
from runtime.containers.security import UNCONFINED, parse_security
from runtime.containers.signals import parse_signal
from runtime.containers.spec import spec_warnings
from runtime.containers.sysctls import check_sysctls
from runtime.containers.users import parse_user
from runtime.errors import InvalidParameter, NotSupported
from runtime.linux.clamp import held
from runtime.linux.controllers import controllers

RUNTIMES = ("", "runc", "io.containerd.runc.v2")
"""What a client may call the one there is."""
OOM_SCORES = range(-1000, 1001)
HOSTNAME_BYTES = 64
"""utsname's (uname(2))."""
_SHORTEST_NS = 1_000_000
_GROUP = re.compile(r"[A-Za-z0-9_.:@-]{1,255}")
"""A component of a control group's path."""
_ADDRESS = re.compile(r"[0-9A-Fa-f.:%\[\]a-z]+")


def check(config: ContainerConfig, host: HostConfig) -> list[str]:
    """What of a container's settings cannot be had here, in sentences; raises InvalidParameter, NotSupported."""
    _check_config(config)
    _check_host(host)
    holds = held()
    warnings = check_resources(host, controllers()) + spec_warnings(host, holds)
    if host.network_mode == HOST and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    security = parse_security(host.security_opt)
    if security.seccomp not in ("", UNCONFINED):
        parse_profile(security.seccomp, ())
    return warnings


def _check_config(config: ContainerConfig) -> None:
    working_directory(config.working_dir)
    for word in (*config.entrypoint, *config.cmd)[:1]:
        check_path(word)
    parse_user(config.user)
    for variable in config.env:
        if not variable.partition("=")[0]:
            raise InvalidParameter(f"invalid environment variable: {variable}")
    texts = (*config.env, *config.cmd, *config.entrypoint, config.hostname, config.domainname, config.working_dir)
    if any("\0" in text for text in texts):
        raise InvalidParameter("invalid character NUL in command, environment or name")
    for name in (config.hostname, config.domainname):
        if len(name.encode()) > HOSTNAME_BYTES or any(letter.isspace() or letter == "/" for letter in name):
            raise InvalidParameter(f"invalid hostname: {name!r}")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    for target in config.volumes:
        if not target.startswith("/"):
            raise InvalidParameter(f"invalid mount path: '{target}' mount path must be absolute")
        if posixpath.normpath(target).strip("/") == "":
            raise InvalidParameter("invalid specification: destination can't be '/'")
    if config.healthcheck:
        _check_health(config.healthcheck)


def _check_health(health: Healthcheck) -> None:
    spans = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    for name, nanoseconds in spans.items():
        if nanoseconds and nanoseconds < _SHORTEST_NS:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")
    if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL", ""):
        raise InvalidParameter(f"Unknown healthcheck type '{health.test[0]}' (expected 'CMD')")


def _check_host(host: HostConfig) -> None:
    check_modes(host)
    check_sysctls(host)
    if host.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation: \"{host.isolation}\" - linux only supports 'default'")
    if host.runtime not in RUNTIMES:
        raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    if host.oom_score_adj not in OOM_SCORES:
        raise InvalidParameter(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.storage_opt:
        raise NotSupported("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    for name in host.cgroup_parent.split("/"):
        if name and (name in (".", "..") or not _GROUP.fullmatch(name)):
            raise InvalidParameter(f"invalid cgroup-parent {host.cgroup_parent[:255]!r}")
    for path in (*(host.masked_paths or ()), *(host.readonly_paths or ())):
        check_path(path)
    for device in host.devices:
        check_access(device)
    for rule in host.device_cgroup_rules:
        parse_rule(rule)
    for group in host.group_add:
        parse_user(f":{group}")
    for target, options in host.tmpfs.items():
        if not target.startswith("/"):
            raise InvalidParameter(f"invalid mount path: '{target}' mount path must be absolute")
        tmpfs_options(options)
    for entry in host.extra_hosts:
        _check_extra_host(entry)


def _check_extra_host(entry: str) -> None:
    name, separator, address = entry.partition(":")
    if not (name and separator and address):
        raise InvalidParameter(f'bad format for add-host: "{entry}"')
    if address != "host-gateway" and not _ADDRESS.fullmatch(address):
        raise InvalidParameter(f'invalid IP address in add-host: "{address}"')


def check_request(request: CreateRequest) -> None:
    """Refuse a request, as it came, that sets what another of its settings leaves nothing of; raises InvalidParameter."""
    config, host = request, request.host_config
    if config.hostname and host.uts_mode == HOST:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if host.network_mode == HOST and host.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
        )
    if not other(host.network_mode):
        return
    conflicts = (
        (config.hostname, "hostname and the network mode"),
        (host.links, "container type network can't be used with links. This would result in undefined behavior"),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
        (config.exposed_ports, "port exposing and the container type network mode"),
    )
    for present, what in conflicts:
        if present:
            raise InvalidParameter(f"conflicting options: {what}")
