"""What a kubelet is told of sandboxes and containers, from their records; must not know how they are found or changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cri_api.v1 import api_pb2 as cri

from runtime.clock import nanoseconds_of
from runtime.containers.bundle import read_config
from runtime.containers.record import Record, State
from runtime.cri.container_config import told_signal
from runtime.cri.pods import Member, Sandbox
from runtime.cri.resources import limits_told
from runtime.images.image import Image
from runtime.images.reference import parse_reference

ImageOf = Callable[[str], Image | None]
"""By its id."""
_STATES = {State.CREATED: cri.CONTAINER_CREATED, State.RUNNING: cri.CONTAINER_RUNNING, State.PAUSED: cri.CONTAINER_RUNNING}


def is_ready(sandbox: Sandbox) -> bool:
    """Whether its process keeps the pod's namespaces."""
    return sandbox.container.is_running


def sandbox_state(sandbox: Sandbox) -> cri.PodSandboxState.ValueType:
    """Ready or not."""
    return cri.SANDBOX_READY if is_ready(sandbox) else cri.SANDBOX_NOTREADY


def container_state(record: Record) -> cri.ContainerState.ValueType:
    """One whose start has failed has ended: a kubelet makes another."""
    if record.life.state is State.CREATED and record.life.error:
        return cri.CONTAINER_EXITED
    return _STATES.get(record.life.state, cri.CONTAINER_EXITED)


def sandbox_item(sandbox: Sandbox) -> cri.PodSandbox:
    """Of a list."""
    config = sandbox.config
    return cri.PodSandbox(
        id=sandbox.id,
        metadata=config.metadata,
        state=sandbox_state(sandbox),
        created_at=nanoseconds_of(sandbox.container.record.created),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.request.runtime_handler,
    )


def sandbox_status(sandbox: Sandbox) -> cri.PodSandboxStatus:
    """All that there is to say."""
    config = sandbox.config
    options = config.linux.security_context.namespace_options
    return cri.PodSandboxStatus(
        id=sandbox.id,
        metadata=config.metadata,
        state=sandbox_state(sandbox),
        created_at=nanoseconds_of(sandbox.container.record.created),
        network=_network(sandbox),
        linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=options)),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.request.runtime_handler,
    )


def _network(sandbox: Sandbox) -> cri.PodSandboxNetworkStatus:
    """Its addresses, IPv4 first; a pod in the host's network has the node's, which a kubelet knows."""
    found = [
        address
        for endpoint in sandbox.container.record.endpoints.values()
        for address in (endpoint.ip_address, endpoint.global_ipv6_address)
        if address and is_ready(sandbox)
    ]
    return cri.PodSandboxNetworkStatus(ip=found[0] if found else "", additional_ips=[cri.PodIP(ip=each) for each in found[1:]])


def sandbox_info(sandbox: Sandbox, cgroup: str) -> dict[str, str]:
    """For people who look at it closely, in JSON."""
    life = sandbox.container.record.life
    return _info(sandbox, {"runtimeHandler": sandbox.request.runtime_handler, "runtimeType": "runc"}, life.pid, cgroup)


def container_item(member: Member) -> cri.Container:
    """Of a list."""
    record, config = member.container.record, member.config
    return cri.Container(
        id=member.id,
        pod_sandbox_id=member.sandbox_id,
        metadata=config.metadata,
        image=config.image,
        image_ref=record.image_id,
        image_id=record.image_id,
        state=container_state(record),
        created_at=nanoseconds_of(record.created),
        labels=config.labels,
        annotations=config.annotations,
    )


def container_status(member: Member, image_of: ImageOf) -> cri.ContainerStatus:
    """All that there is to say; reads a file of a running container's."""
    record, config = member.container.record, member.config
    state = container_state(record)
    ended = state == cri.CONTAINER_EXITED
    image = image_of(record.image_id)
    return cri.ContainerStatus(
        id=member.id,
        metadata=config.metadata,
        state=state,
        created_at=nanoseconds_of(record.created),
        started_at=nanoseconds_of(record.life.started_at),
        finished_at=(nanoseconds_of(record.life.finished_at) or nanoseconds_of(record.created)) if ended else 0,
        exit_code=record.life.exit_code if ended else 0,
        image=cri.ImageSpec(image=whole_name(image.tags[0]) if image and image.tags else config.image.image),
        image_ref=whole_name(image.digests[0]) if image and image.digests else record.image_id,
        image_id=record.image_id,
        reason=reason(record) if ended else "",
        message=record.life.error if ended else "",
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=record.log_path,
        resources=limits_told(record.host),
        user=_user(member),
        stop_signal=told_signal(record.config),
    )


def whole_name(name: str) -> str:
    """An image's name with its host, as kubelets compare them: docker.io/library/busybox:latest."""
    return parse_reference(name).canonical


def reason(record: Record) -> str:
    """Why it ended, in the words that other runtimes have for it."""
    life = record.life
    if life.error:
        return "StartError"
    if life.oom_killed:
        return "OOMKilled"
    return "Completed" if life.exit_code == 0 else "Error"


def _user(member: Member) -> cri.ContainerUser | None:
    """Who its first process is; known once it has started, as names are the image's."""
    if not member.container.is_running:
        return None
    try:
        user = read_config(member.container.bundle)["process"]["user"]
    except OSError:  # it has ended meanwhile
        return None
    told = cri.LinuxContainerUser(uid=user["uid"], gid=user["gid"], supplemental_groups=user.get("additionalGids", ()))
    return cri.ContainerUser(linux=told)


def container_info(member: Member, cgroup: str) -> dict[str, str]:
    """For people who look at it closely, in JSON."""
    record = member.container.record
    more = {"sandboxID": member.sandbox_id, "removing": record.life.state is State.REMOVING, "runtimeType": "runc"}
    return _info(member, more, record.life.pid, cgroup)


def _info(thing: Sandbox | Member, more: dict[str, Any], pid: int, cgroup: str) -> dict[str, str]:
    """What an OCI runtime was told is in there while it runs, as crictl's users expect."""
    info = {**more, "pid": pid, "cgroup": cgroup}
    if thing.container.is_running:
        with suppress(OSError):  # it has ended meanwhile
            info["runtimeSpec"] = read_config(thing.container.bundle)
    return {"info": json.dumps(info)}
