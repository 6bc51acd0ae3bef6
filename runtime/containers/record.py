"""A container as it is remembered: what it is to be, what became of it; values alone, must not know how anything is done."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec import field

from runtime.clock import NEVER
from runtime.config import ContainerConfig, EndpointSettings, HostConfig, PortBinding, Value


class State(StrEnum):
    """Docker's words; `transitions.py` says which verb is legal in which."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class HealthProbe(Value):
    """One run of a health check; exit code -1: it took too long."""

    start: str
    end: str
    exit_code: int
    output: str


class Health(Value):
    """What health checks found; status none, starting, healthy or unhealthy."""

    status: str = "none"
    failing_streak: int = 0
    log: tuple[HealthProbe, ...] = ()
    """The last five."""


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a container; the newest of its lives."""

    state: State = State.CREATED
    pid: int = 0
    """Of its first process, in the engine's namespace; 0: none runs."""
    exit_code: int = 0
    error: str = ""
    """Why it did not start."""
    oom_killed: bool = False
    started_at: str = NEVER
    finished_at: str = NEVER
    health: Health | None = None
    restart_count: int = 0
    manually_stopped: bool = False
    """A user stopped it: `unless-stopped` and `always` leave it alone until the engine's next start (always) or the user's."""


class MountPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the container where something of the host's is."""

    type: str
    """bind, volume, tmpfs or image."""
    source: str = ""
    """Path on the host; "" for tmpfs."""
    target: str
    name: str = ""
    """Of the volume."""
    driver: str = ""
    writable: bool = True
    mode: str = ""
    """Options as the user gave them: "z", "ro"."""
    propagation: str = ""
    options: tuple[str, ...] = ()
    """Of a tmpfs: mount options."""
    copy: bool = False
    """A volume that takes over what the image has at its target, when it is empty."""


ENGINE_GROUP = "tartan"
"""The control group above those of all containers that name no other."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a container; replaced as a whole and written at each change."""

    id: str
    """64 hex digits."""
    name: str
    """Without the slash that the API writes in front."""
    created: str
    image_id: str
    """"sha256:.."; "" for a sandbox, which has none."""
    layer: str = ""
    """Chain id of the topmost layer of its image; "": none."""
    config: ContainerConfig
    """The image's and the request's, merged."""
    host: HostConfig
    path: str = ""
    """The program, from entrypoint or cmd."""
    args: tuple[str, ...] = ()
    endpoints: dict[str, EndpointSettings] = field(default_factory=dict)
    """By network name: asked for, and while it runs, given."""
    ports: dict[str, tuple[PortBinding, ...]] = field(default_factory=dict)
    """"80/tcp" -> where it is reached, while it runs."""
    mounts: tuple[MountPoint, ...] = ()
    owned_volumes: tuple[str, ...] = ()
    """Anonymous ones made for it: gone with `rm -v` and `--rm`."""
    life: Life = Life()
    log_path: str = ""
    """Where its output is written; "": nowhere."""
    log_format: str = "json-file"
    """json-file, cri or none."""
    kind: str = "container"
    """container; sandbox or pod-container: CRI's, which the Engine API shows as well."""
    netns: str = ""
    """Path of a network namespace made by somebody else, to be joined as it is."""
    group_rule: str = ""
    """Which groups of /etc/group processes are in besides those asked for: merge (their user's), strict (none); "": Docker's rule,
    which is their user's unless a group is named."""
    note: bytes = b""
    """Put down by who had it made, who alone reads it."""

    @property
    def cgroup(self) -> str:
        """Path of its control group within each hierarchy."""
        return f"/{self.host.cgroup_parent.strip('/') or ENGINE_GROUP}/{self.id}"
