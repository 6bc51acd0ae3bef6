"""A container of a pod as a container of the engine's; must not know how it is made or run."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from cri_api.v1 import api_pb2 as cri

from runtime.config import (
    BindOptions,
    ContainerConfig,
    CreateRequest,
    Device,
    Healthcheck,
    HostConfig,
    ImageOptions,
    Mount,
)
from runtime.containers.record import Record
from runtime.cri.resources import limits
from runtime.cri.sandbox_config import SANDBOX_LABEL, TYPE_LABEL, pod_labels
from runtime.cri.security import container_namespaces, security_options, user_of
from runtime.errors import InvalidParameter, NotSupported

PROPAGATION = {
    cri.PROPAGATION_PRIVATE: "rprivate",
    cri.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    cri.PROPAGATION_BIDIRECTIONAL: "rshared",
}


def container_request(config: cri.ContainerConfig, pod: cri.PodSandboxConfig, sandbox: Record) -> CreateRequest:
    """What the engine is to make; raises InvalidParameter, NotSupported."""
    _refuse(config, pod)
    rights = config.linux.security_context
    labels = {**config.labels, **pod_labels(pod.metadata), "io.kubernetes.container.name": config.metadata.name}
    return CreateRequest(
        image=config.image.image,
        entrypoint=tuple(config.command),
        cmd=tuple(config.args),
        working_dir=config.working_dir,
        env=tuple(f"{variable.key}={variable.value}" for variable in config.envs),
        user=user_of(rights),
        tty=config.tty,
        open_stdin=config.stdin,
        stdin_once=config.stdin_once,
        stop_signal=stop_signal(config.stop_signal),
        healthcheck=Healthcheck(test=("NONE",)),
        labels={**labels, TYPE_LABEL: "container", SANDBOX_LABEL: sandbox.id},
        host_config=_host(config, pod, sandbox),
    )


def _refuse(config: cri.ContainerConfig, pod: cri.PodSandboxConfig) -> None:
    if not config.metadata.name:
        raise InvalidParameter("container config must include metadata: its name")
    if not config.image.image:
        raise InvalidParameter("container config must include an image")
    if config.CDI_devices:
        raise NotSupported("CDI devices are not supported: expected device nodes")
    rights = config.linux.security_context
    if rights.capabilities.add_ambient_capabilities:
        raise NotSupported("ambient capabilities are not supported")
    if rights.privileged and not pod.linux.security_context.privileged:
        raise InvalidParameter("no privileged container allowed in sandbox")


def _host(config: cri.ContainerConfig, pod: cri.PodSandboxConfig, sandbox: Record) -> HostConfig:
    rights = config.linux.security_context
    limited = limits(config.linux.resources)
    return HostConfig(
        **{name: getattr(limited, name) for name in limited.__struct_fields__ if name not in ("cgroup_parent", "devices")},
        cgroup_parent=pod.linux.cgroup_parent,
        devices=tuple(_devices(config)),
        mounts=tuple(_mount(mount) for mount in config.mounts),
        oom_score_adj=config.linux.resources.oom_score_adj,
        privileged=rights.privileged,
        readonly_rootfs=rights.readonly_rootfs,
        cap_add=tuple(rights.capabilities.add_capabilities),
        cap_drop=tuple(rights.capabilities.drop_capabilities),
        security_opt=security_options(rights),
        group_add=tuple(str(group) for group in rights.supplemental_groups),
        masked_paths=tuple(rights.masked_paths) or None,
        readonly_paths=tuple(rights.readonly_paths) or None,
        **container_namespaces(rights.namespace_options, sandbox),
    )


def _devices(config: cri.ContainerConfig) -> Iterator[Device]:
    for device in config.devices:
        yield Device(
            path_on_host=device.host_path,
            path_in_container=device.container_path or device.host_path,
            cgroup_permissions=device.permissions or "rwm",
        )


def _mount(mount: cri.Mount) -> Mount:
    """A path of the host's, made as a directory when it is not there; or an image."""
    if mount.uidMappings or mount.gidMappings:
        raise NotSupported(f"mount {mount.container_path}: ids of users cannot be mapped")
    if mount.recursive_read_only and not (mount.readonly and mount.propagation == cri.PROPAGATION_PRIVATE):
        raise InvalidParameter(
            f"mount {mount.container_path}: recursive_read_only without readonly, or with a propagation other than private"
        )
    target = posixpath.normpath(mount.container_path)
    if mount.HasField("image"):
        options = ImageOptions(subpath=mount.image_sub_path)
        return Mount(type="image", source=mount.image.image, target=target, read_only=True, image_options=options)
    return Mount(
        type="bind",
        source=mount.host_path,
        target=target,
        read_only=mount.readonly,
        bind_options=BindOptions(
            propagation=PROPAGATION.get(mount.propagation, "rprivate"),
            create_mountpoint=True,
            read_only_non_recursive=mount.readonly and not mount.recursive_read_only,
            read_only_force_recursive=mount.recursive_read_only,
        ),
    )


def stop_signal(number: cri.Signal.ValueType) -> str:
    """A signal as users write it, "": the image's."""
    if number == cri.RUNTIME_DEFAULT:
        return ""
    return cri.Signal.Name(number).replace("PLUS", "+").replace("MINUS", "-")


def told_signal(config: ContainerConfig) -> cri.Signal.ValueType:
    """The signal that a container is asked to end by."""
    name = (config.stop_signal or "SIGTERM").upper().replace("+", "PLUS").replace("-", "MINUS")
    name = name if name.startswith("SIG") else f"SIG{name}"
    return cri.Signal.Value(name) if name in cri.Signal.keys() else cri.RUNTIME_DEFAULT  # noqa: SIM118 - no mapping
