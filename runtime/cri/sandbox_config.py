"""A pod sandbox as a container of the engine's: a process that does nothing, whose namespaces the pod's containers share.

Must not know how it is run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from cri_api.v1 import api_pb2 as cri

from runtime.config import CreateRequest, EndpointSettings, Healthcheck, HostConfig, NetworkingConfig, PortBinding
from runtime.containers.names import MAX
from runtime.cri.security import group_rule, sandbox_namespaces, security_options
from runtime.errors import InvalidParameter

PAUSE = "/pause"
OOM_SCORE = -998
"""Of a sandbox: the last to go, as with other runtimes. What runs in its pod has scores of its own."""
TYPE_LABEL, SANDBOX_LABEL = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
"""What containerd calls these as annotations; here labels, so that docker shows them and events carry them."""
POD_LABELS = ("io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid")
HOST = "host"
NOBODY = "65535:65535"
"""Who a sandbox's process is, unless somebody is asked for: it needs no rights."""
BANDWIDTH = {"ingress": "kubernetes.io/ingress-bandwidth", "egress": "kubernetes.io/egress-bandwidth"}
MOST_BURST = (1 << 31) - 1
"""Bits, what containerd and kubenet give."""
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_QUANTITY = re.compile(r"([0-9]{1,12})([kMGT]i?|Ki)?")
_RATES = range(1000, 10**15 + 1)
"""Bits a second that Kubernetes takes for a pod's bandwidth."""
_UNUSUAL = re.compile(r"[^a-zA-Z0-9_.-]")


def container_name(name: str, metadata: cri.PodSandboxMetadata, attempt: int) -> str:
    """What docker shows of it, as its shim did; the same for the same pod and attempt, and so a guard against a second one."""
    words = (name, metadata.name, metadata.namespace, metadata.uid, str(attempt))
    plain = "k8s_" + "_".join(_UNUSUAL.sub("-", word) for word in words)
    if len(plain) <= MAX and not any(_UNUSUAL.search(word) for word in words):
        return plain
    return f"{plain[: MAX - 33]}_{hashlib.sha256('/'.join(words).encode()).hexdigest()[:32]}"


def check_metadata(config: cri.PodSandboxConfig) -> None:
    """Raise InvalidParameter unless it says which pod it is."""
    metadata = config.metadata
    if not (metadata.name and metadata.namespace and metadata.uid):
        raise InvalidParameter("sandbox config must include metadata: name, namespace and uid")


def pod_labels(metadata: cri.PodSandboxMetadata) -> dict[str, str]:
    """What CNI plugins are told, and docker shows."""
    return dict(zip(POD_LABELS, (metadata.name, metadata.namespace, metadata.uid), strict=True))


def sandbox_request(config: cri.PodSandboxConfig, network: str, pause: Path) -> CreateRequest:
    """What the engine is to make: `network`, of CNI, unless it is the host's; raises InvalidParameter, NotSupported."""
    check_metadata(config)
    rights = config.linux.security_context
    on_host = rights.namespace_options.network == cri.NODE
    host = HostConfig(
        binds=(f"{pause}:{PAUSE}:ro",),
        cgroup_parent=config.linux.cgroup_parent,
        network_mode=HOST if on_host else network,
        port_bindings={} if on_host else _ports(config),
        oom_score_adj=OOM_SCORE,
        privileged=False,
        readonly_rootfs=True,
        cap_drop=("ALL",),
        security_opt=(*security_options(rights), "no-new-privileges"),
        group_add=tuple(str(group) for group in rights.supplemental_groups),
        sysctls=dict(config.linux.sysctls),
        **sandbox_namespaces(rights.namespace_options),
    )
    return CreateRequest(
        cmd=(PAUSE, "pause"),
        hostname="" if on_host else config.hostname,
        user=_user(rights),
        healthcheck=Healthcheck(test=("NONE",)),
        labels={**config.labels, **pod_labels(config.metadata), TYPE_LABEL: "sandbox"},
        host_config=host,
        networking_config=_networking(config, network) if not on_host else NetworkingConfig(),
    )


def sandbox_group_rule(config: cri.PodSandboxConfig) -> str:
    """Which groups count; see `Record`."""
    return group_rule(config.linux.security_context)


def _user(rights: cri.LinuxSandboxSecurityContext) -> str:
    if not rights.HasField("run_as_user"):
        return NOBODY
    group = rights.run_as_group.value if rights.HasField("run_as_group") else rights.run_as_user.value
    return f"{rights.run_as_user.value}:{group}"


def _ports(config: cri.PodSandboxConfig) -> dict[str, tuple[PortBinding, ...]]:
    found: dict[str, tuple[PortBinding, ...]] = {}
    for mapping in config.port_mappings:
        if mapping.host_port > 0:
            key = f"{mapping.container_port}/{cri.Protocol.Name(mapping.protocol).lower()}"
            found[key] = (*found.get(key, ()), PortBinding(host_ip=mapping.host_ip, host_port=str(mapping.host_port)))
    return found


def _networking(config: cri.PodSandboxConfig, network: str) -> NetworkingConfig:
    """What the network's plugins are told besides: of a CNI network, driver options are capabilities."""
    told: dict[str, object] = {"bandwidth": _bandwidth(config.annotations)}
    told["io.kubernetes.cri.pod-annotations"] = dict(config.annotations)
    options = {name: msgspec.json.encode(value, order="sorted").decode() for name, value in told.items() if value}
    return NetworkingConfig(endpoints_config={network: EndpointSettings(driver_opts=options)})


def _bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for way, name in BANDWIDTH.items():
        if text := annotations.get(name, ""):
            limits |= {f"{way}Rate": _rate(name, text), f"{way}Burst": MOST_BURST}
    return limits


def _rate(name: str, text: str) -> int:
    match = _QUANTITY.fullmatch(text)
    bits = int(match[1]) * _UNITS.get(match[2] or "", 0) if match else 0
    if bits not in _RATES:
        raise InvalidParameter(f"invalid annotation {name}: {text!r}, expected bits a second from 1k to 1P")
    return bits


def resolver_text(dns: cri.DNSConfig) -> str:
    """resolv.conf(5) with what is given and nothing else."""
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)
