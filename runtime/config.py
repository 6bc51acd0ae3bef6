"""What a container, an image and an endpoint are to be, as the Docker Engine API says it (v1.50): values that are taken from
requests, kept in records and given back by inspect unchanged; must not know how any of it is done.

Absent and null are the same: `decode` drops nulls, so that every field has its type and its default. Unknown keys are ignored, as
Docker does: clients are newer and older than we are.
"""

from __future__ import annotations

from typing import Any, TypeVar, dataclass_transform

import msgspec
from msgspec import field

from runtime.errors import InvalidParameter

T = TypeVar("T")

INTEGERS = range(-(1 << 63), 1 << 63)
"""Docker's are of 64 bits, and so are those of all that ours are handed on to."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))  # msgspec's own says it of no subclass
class Value(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A JSON object of the API with its keys in Go's spelling."""


def decode(data: bytes | str, kind: type[T]) -> T:
    """Read a JSON document; raises InvalidParameter naming the key and what was expected."""
    try:
        return convert(msgspec.json.decode(data or b"{}"), kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParameter(f"invalid JSON: {error}") from error


def convert(document: object, kind: type[T]) -> T:
    """Take a value from what JSON was decoded to; raises InvalidParameter naming the key and what was expected."""
    try:
        return msgspec.convert(_without_nulls(document), kind)
    except msgspec.ValidationError as error:
        raise InvalidParameter(str(error)) from error


def _without_nulls(document: object) -> object:
    if isinstance(document, dict):
        return {key: _without_nulls(value) for key, value in document.items() if value is not None}
    if isinstance(document, list):
        return [_without_nulls(value) for value in document]
    if isinstance(document, int) and document not in INTEGERS:
        raise InvalidParameter(f"invalid number {str(document)[:100]}, expected one of 64 bits")
    return document


def encode(value: Value) -> dict[str, Any]:
    """The JSON object of a value, to be put into larger ones."""
    built: dict[str, Any] = msgspec.to_builtins(value)
    return built


class Healthcheck(Value):
    """How to find out whether it works: intervals in nanoseconds, 0: inherit or the default."""

    test: tuple[str, ...] = ()
    """Empty: the image's; ["NONE"]: none; ["CMD", args..] or ["CMD-SHELL", command]."""
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class ContainerConfig(Value):
    """What is independent of the host, and so can be an image's too."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] = field(default_factory=dict)
    """"80/tcp" -> {}."""
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] = field(default_factory=dict)
    """Path -> {}: an anonymous volume each."""
    working_dir: str = ""
    entrypoint: tuple[str, ...] = ()
    """[""]: clear the image's."""
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    stop_timeout: int | None = None
    """Seconds; None: 10."""
    shell: tuple[str, ...] = ()


class PortBinding(Value):
    """Where on the host a container's port is reached; port "": any free one; "8000-8010": the first free one of these."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Value):
    """Whether a container that ended is started again: "", "no", "always", "unless-stopped", "on-failure"."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Value):
    """Driver ("": json-file; none, local) and its options (max-size, max-file)."""

    type: str = ""
    config: dict[str, str] = field(default_factory=dict)


class Ulimit(Value):
    """A resource limit by the name of ulimit(1): nofile, nproc; -1: none."""

    name: str
    soft: int = 0
    hard: int = 0


class Device(Value):
    """A device node of the host's in the container."""

    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class WeightDevice(Value):
    """A block device's weight."""

    path: str
    weight: int = 0


class ThrottleDevice(Value):
    """A block device's limit, bytes or operations a second."""

    path: str
    rate: int = 0


class BindOptions(Value):
    """Of a mount of type bind."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriver(Value):
    """Who makes a volume."""

    name: str = ""
    options: dict[str, str] = field(default_factory=dict)


class VolumeOptions(Value):
    """Of a mount of type volume."""

    no_copy: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    driver_config: VolumeDriver | None = None
    subpath: str = ""


class ImageOptions(Value):
    """Of a mount of type image."""

    subpath: str = ""


class TmpfsOptions(Value):
    """Of a mount of type tmpfs."""

    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] = ()


class Mount(Value):
    """One --mount: type bind, volume, tmpfs or image."""

    type: str
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Resources(Value):
    """What a container may use; 0 or empty: no limit. What `docker update` changes."""

    cpu_shares: int = 0
    memory: int = 0
    """Bytes."""
    nano_cpus: int = 0
    """1e9: one processor."""
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: tuple[WeightDevice, ...] = ()
    blkio_device_read_bps: tuple[ThrottleDevice, ...] = ()
    blkio_device_write_bps: tuple[ThrottleDevice, ...] = ()
    blkio_device_read_iops: tuple[ThrottleDevice, ...] = field(default=(), name="BlkioDeviceReadIOps")
    blkio_device_write_iops: tuple[ThrottleDevice, ...] = field(default=(), name="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    """Microseconds."""
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    device_requests: tuple[dict[str, Any], ...] = ()
    memory_reservation: int = 0
    memory_swap: int = 0
    """Bytes of memory and swap; -1: unlimited; 0: twice the memory."""
    memory_swappiness: int | None = None
    """-1: the kernel's."""
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    """0, -1: no limit."""
    ulimits: tuple[Ulimit, ...] = ()
    unified: dict[str, str] = field(default_factory=dict)
    """Files of cgroup v2 and what is written to them: CRI's, "memory.oom.group" of every kubelet; Docker has no such thing."""


class HostConfig(Resources):
    """What depends on the host."""

    binds: tuple[str, ...] = ()
    """"source:target[:options]"; a source without "/" is a volume."""
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = LogConfig()
    network_mode: str = "default"
    """"default" and "bridge": docker0; "host", "none", "container:ID", or a network's name or id."""
    port_bindings: dict[str, tuple[PortBinding, ...]] = field(default_factory=dict)
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    console_size: tuple[int, int] = (0, 0)
    """Height, width."""
    annotations: dict[str, str] = field(default_factory=dict)
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    cgroupns_mode: str = ""
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    """"name:address"; address host-gateway: the host's, as seen from the default bridge."""
    group_add: tuple[str, ...] = ()
    ipc_mode: str = ""
    cgroup: str = ""
    links: tuple[str, ...] = ()
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] = ()
    storage_opt: dict[str, str] = field(default_factory=dict)
    tmpfs: dict[str, str] = field(default_factory=dict)
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    """Bytes; 0: 64 MiB."""
    sysctls: dict[str, str] = field(default_factory=dict)
    runtime: str = ""
    isolation: str = ""
    masked_paths: tuple[str, ...] | None = None
    """None: the default ones."""
    readonly_paths: tuple[str, ...] | None = None
    init: bool | None = None


class IpamConfig(Value):
    """Addresses that an endpoint asks for."""

    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")
    link_local_ips: tuple[str, ...] = field(default=(), name="LinkLocalIPs")


class EndpointSettings(Value):
    """A container in a network: what was asked for, and once it runs, what it got."""

    ipam_config: IpamConfig | None = field(default=None, name="IPAMConfig")
    links: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    mac_address: str = ""
    driver_opts: dict[str, str] = field(default_factory=dict)
    gw_priority: int = 0
    network_id: str = field(default="", name="NetworkID")
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = field(default="", name="IPAddress")
    ip_prefix_len: int = field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = field(default="", name="IPv6Gateway")
    global_ipv6_address: str = field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: int = field(default=0, name="GlobalIPv6PrefixLen")
    dns_names: tuple[str, ...] = field(default=(), name="DNSNames")


class NetworkingConfig(Value):
    """Networks by name, with what is asked of each."""

    endpoints_config: dict[str, EndpointSettings] = field(default_factory=dict)


class CreateRequest(ContainerConfig):
    """The body of POST /containers/create."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()
