"""The engine itself: ping, version, info, login."""

from __future__ import annotations

import asyncio
import os
import platform
from collections import Counter
from typing import Any

import msgspec

from runtime.clock import now
from runtime.containers.log_options import DRIVERS as LOG_DRIVERS
from runtime.containers.record import State
from runtime.docker_api.backend import Backend, engine_version
from runtime.docker_api.exchange import Json, Request, Response, Text
from runtime.docker_api.target import API_VERSION, MINIMUM_VERSION, text_of
from runtime.images.registry import Credentials, login
from runtime.linux.controllers import Controllers, controllers

INDEX = "https://index.docker.io/v1/"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_SUPPORTED = ("BridgeNfIp6tables", "BridgeNfIptables", "IPv4Forwarding")


class AuthRequest(msgspec.Struct, frozen=True, rename="lower"):
    """The body of POST /auth."""

    username: str = ""
    password: str = ""
    server_address: str = msgspec.field(default="", name="serveraddress")
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")


async def ping(engine: Backend, request: Request) -> Response:
    """What clients begin with: the headers that every answer has tell them the version."""
    headers = (("Cache-Control", "no-cache, no-store, must-revalidate"), ("Pragma", "no-cache"))
    return Text("OK", 200, (*headers, ("Builder-Version", "1"), ("Swarm", "inactive")))


async def version(engine: Backend, request: Request) -> Response:
    """Which engine and which API."""
    system = os.uname()
    facts = {
        "ApiVersion": text_of(API_VERSION),
        "MinAPIVersion": text_of(MINIMUM_VERSION),
        "GitCommit": "",
        "GoVersion": f"none (Python {platform.python_version()})",
        "Os": "linux",
        "Arch": ARCHITECTURES.get(system.machine, system.machine),
        "KernelVersion": system.release,
        "BuildTime": "",
    }
    component = {"Name": "Engine", "Version": engine_version(), "Details": facts | {"Experimental": "false"}}
    return Json({"Platform": {"Name": "Tartan"}, "Version": engine_version(), "Components": [component], **facts})


async def info(engine: Backend, request: Request) -> Response:
    """How the engine is set up, and how much it has."""
    host = await asyncio.to_thread(_host_json)
    counts = Counter(container.state for container in engine.containers.all())
    settings = engine.settings
    own = {
        "Containers": counts.total(),
        "ContainersRunning": counts[State.RUNNING],
        "ContainersPaused": counts[State.PAUSED],
        "ContainersStopped": counts.total() - counts[State.RUNNING] - counts[State.PAUSED],
        "Images": len(engine.images.list()),
        "SystemTime": now(),
        "DockerRootDir": str(settings.layout.root),
        "Labels": list(settings.labels),
        "RegistryConfig": _registries_json(settings.registry_mirrors, settings.insecure_registries),
        "DefaultAddressPools": [{"Base": pool, "Size": length} for pool, length in settings.address_pools],
        "ServerVersion": engine_version(),
    }
    return Json(_CONSTANT | host | own | engine.info())


def _host_json() -> dict[str, Any]:
    """What of /info is the host's. Blocking."""
    system = os.uname()
    offered = controllers()
    release = platform.freedesktop_os_release()
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": pages * page,
        "KernelVersion": system.release,
        "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
        "OSVersion": release.get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": system.machine,
        "Name": system.nodename,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": str(offered.version),
        "SecurityOptions": ["name=seccomp,profile=builtin", *(["name=cgroupns"] if offered.version == 2 else [])],
        "HttpProxy": os.environ.get("HTTP_PROXY", ""),
        "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
        "NoProxy": os.environ.get("NO_PROXY", ""),
        "NFd": len(os.listdir("/proc/self/fd")),
        **limits_json(offered),
    }


def limits_json(offered: Controllers) -> dict[str, Any]:
    """Which limits can be had, and for each that cannot, what clients print; version 2 has no OomKillDisable to miss."""
    found = {
        "MemoryLimit": (offered.memory, "No memory limit support"),
        "SwapLimit": (offered.swap, "No swap limit support"),
        "OomKillDisable": (offered.oom_kill_disable, "No oom kill disable support" if offered.version == 1 else ""),
        "CpuCfsPeriod": (offered.quota, "No cpu cfs period support"),
        "CpuCfsQuota": (offered.quota, "No cpu cfs quota support"),
        "CPUShares": (offered.shares, "No cpu shares support"),
        "CPUSet": (offered.cpuset, "No cpuset support"),
        "PidsLimit": (offered.pids, ""),
    }
    missing = [f"WARNING: {words}" for has, words in found.values() if words and not has]
    return {name: has for name, (has, _) in found.items()} | {"Warnings": missing or None}


def _registries_json(mirrors: tuple[str, ...], insecure: tuple[str, ...]) -> dict[str, Any]:
    hub = {"Name": "docker.io", "Mirrors": list(mirrors), "Secure": True, "Official": True}
    others = {name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in insecure if "/" not in name}
    ranges = ["::1/128", "127.0.0.0/8", *(name for name in insecure if "/" in name)]
    return {"IndexConfigs": {"docker.io": hub} | others, "InsecureRegistryCIDRs": ranges, "Mirrors": list(mirrors)}


_CONSTANT: dict[str, Any] = {
    "ID": "",
    "Driver": "overlay2",
    "DriverStatus": [],
    "Plugins": {
        "Volume": ["local"],
        "Network": ["bridge", "cni", "host", "null"],
        "Authorization": None,
        "Log": list(LOG_DRIVERS),
    },
    **dict.fromkeys(_SUPPORTED, True),
    "Debug": False,
    "NGoroutines": 0,
    "LoggingDriver": "json-file",
    "NEventsListener": 0,
    "IndexServerAddress": INDEX,
    "GenericResources": None,
    "ExperimentalBuild": False,
    "Runtimes": {"runc": {"path": "runc"}},
    "DefaultRuntime": "runc",
    "Swarm": {
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": "inactive",
        "ControlAvailable": False,
        "Error": "",
        "RemoteManagers": None,
    },
    "LiveRestoreEnabled": True,
    "Isolation": "",
    "InitBinary": "",
    "ContainerdCommit": {"ID": ""},
    "RuncCommit": {"ID": ""},
    "InitCommit": {"ID": ""},
    "CDISpecDirs": [],
}


async def auth(engine: Backend, request: Request) -> Response:
    """Whether a registry takes these credentials."""
    given = await request.decoded(AuthRequest)
    credentials = Credentials(
        username=given.username,
        password=given.password,
        identity_token=given.identity_token,
        registry_token=given.registry_token,
        server=given.server_address,
    )
    status = await login(engine.registries, credentials)
    return Json({"Status": status, "IdentityToken": ""})
