"""What a kubelet says of a container's rights and namespaces, as settings of the engine's; must not know how they are enforced."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from cri_api.v1 import api_pb2 as cri

from flanneld.log import Log
from runtime.containers.origin import SANDBOX
from runtime.containers.record import Record
from runtime.containers.users import MERGE, STRICT
from runtime.errors import InvalidParameter, NotSupported
from runtime.linux.security_modules import apparmor_enabled

log = Log(__name__)
Rights: TypeAlias = cri.LinuxContainerSecurityContext | cri.LinuxSandboxSecurityContext
LOCALHOST = "localhost/"
"""In front of a profile's path, in fields older than messages for profiles."""
MOST_PROFILE_BYTES = 1 << 20


def user_of(rights: cri.LinuxContainerSecurityContext) -> str:
    """The user "uid|name[:gid]", "": the image's; raises InvalidParameter."""
    by_id = rights.HasField("run_as_user")
    user = str(rights.run_as_user.value) if by_id else rights.run_as_username
    if not rights.HasField("run_as_group"):
        return user
    if not user:
        raise InvalidParameter("user group is specified without user: expected run_as_user or run_as_username besides run_as_group")
    return f"{user}:{rights.run_as_group.value}"


def group_rule(rights: Rights) -> str:
    """Which groups of the image's count besides those given."""
    return STRICT if rights.supplemental_groups_policy == cri.Strict else MERGE


def security_options(rights: Rights) -> tuple[str, ...]:
    """Docker's --security-opt; raises InvalidParameter for a profile that cannot be read."""
    options = [f"seccomp={_seccomp(rights)}"]
    if isinstance(rights, cri.LinuxContainerSecurityContext):
        options += ["no-new-privileges"] if rights.no_new_privs else []
        options += _apparmor(rights)
    return tuple(options)


def _seccomp(rights: Rights) -> str:
    """unconfined, builtin, or a profile; what says nothing is unconfined, since a kubelet says what it wants."""
    profile = rights.seccomp
    if rights.HasField("seccomp"):
        if profile.profile_type == cri.SecurityProfile.Localhost:
            return _profile(profile.localhost_ref)
        return "builtin" if profile.profile_type == cri.SecurityProfile.RuntimeDefault else "unconfined"
    path = rights.seccomp_profile_path
    if path.startswith(LOCALHOST):
        return _profile(path.removeprefix(LOCALHOST))
    return "builtin" if path in ("runtime/default", "docker/default") else "unconfined"


def _profile(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid seccomp profile path {path!r}, expected an absolute one")
    try:
        with Path(path).open("rb") as file:
            text = file.read(MOST_PROFILE_BYTES + 1)
    except OSError as error:
        raise InvalidParameter(f"cannot read seccomp profile {path}: {error.strerror}") from error
    if len(text) > MOST_PROFILE_BYTES:
        raise InvalidParameter(f"seccomp profile {path} is too large, expected {MOST_PROFILE_BYTES} bytes at most")
    return text.decode(errors="replace")


def _apparmor(rights: cri.LinuxContainerSecurityContext) -> list[str]:
    profile = rights.apparmor.localhost_ref if rights.HasField("apparmor") else rights.apparmor_profile.removeprefix(LOCALHOST)
    if profile in ("", "runtime/default", "unconfined"):
        return []
    if not apparmor_enabled():
        log.warning("AppArmor is not enabled here, profile discarded", profile=profile)
        return []
    return [f"apparmor={profile}"]


def check_user_namespace(options: cri.NamespaceOption) -> None:
    """Raise NotSupported, InvalidParameter unless the host's own users are wanted."""
    if not options.HasField("userns_options"):
        return
    mode = options.userns_options.mode
    if mode == cri.POD:
        raise NotSupported("user namespaces are not supported: expected hostUsers not to be false")
    if mode != cri.NODE:
        raise InvalidParameter(f"unsupported user namespace mode {cri.NamespaceMode.Name(mode)}")


def sandbox_namespaces(options: cri.NamespaceOption) -> dict[str, Any]:
    """HostConfig's modes of a sandbox; its network is not among them. Raises InvalidParameter, NotSupported."""
    check_user_namespace(options)
    for what, mode in {"network": options.network, "IPC": options.ipc}.items():
        if mode not in (cri.POD, cri.NODE):
            raise InvalidParameter(f"unsupported {what} namespace mode {cri.NamespaceMode.Name(mode)}, expected POD or NODE")
    return {
        "ipc_mode": "host" if options.ipc == cri.NODE else "shareable",
        "pid_mode": "host" if options.pid == cri.NODE else "",
        "uts_mode": "host" if options.network == cri.NODE else "",
    }


def container_namespaces(options: cri.NamespaceOption, sandbox: Record) -> dict[str, Any]:
    """HostConfig's modes of a container in a sandbox; raises InvalidParameter, NotSupported."""
    if sandbox.kind != SANDBOX:
        raise InvalidParameter(f"{sandbox.id} is no pod sandbox")
    check_user_namespace(options)
    shared = f"container:{sandbox.id}"
    if options.pid == cri.TARGET and not options.target_id:
        raise InvalidParameter("PID namespace mode TARGET without a target container")
    pid = {cri.POD: shared, cri.CONTAINER: "", cri.NODE: "host", cri.TARGET: f"container:{options.target_id}"}
    ipc = {cri.POD: shared, cri.CONTAINER: "private", cri.NODE: "host"}
    if options.ipc not in ipc:
        raise InvalidParameter(f"unsupported IPC namespace mode {cri.NamespaceMode.Name(options.ipc)}")
    if sandbox.host.ipc_mode == "host":
        ipc[cri.POD] = "host"
    return {
        "network_mode": shared,
        "uts_mode": "host" if sandbox.host.uts_mode == "host" else shared,
        "pid_mode": pid[options.pid],
        "ipc_mode": ipc[options.ipc],
    }
