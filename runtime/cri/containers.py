"""CRI's calls about containers; must not know how sandboxes are made, nor how streams are carried to clients."""

from __future__ import annotations

import asyncio
import posixpath
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cri_api.v1 import api_pb2 as cri

from runtime.containers.execs import ExecConfig
from runtime.containers.origin import POD_CONTAINER, Origin
from runtime.cri.answers import ImageOf, container_info, container_item, container_state, container_status, is_ready
from runtime.cri.container_config import container_request
from runtime.cri.pods import Pods, Sandbox, has_labels
from runtime.cri.resources import limits
from runtime.cri.sandbox_config import container_name
from runtime.cri.sandboxes import end, refuse_taken, remove
from runtime.cri.security import group_rule
from runtime.errors import Conflict, InvalidParameter, NotFound, NotModified

if TYPE_CHECKING:
    from runtime.containers.execs import Execs
    from runtime.containers.store import Containers
    from runtime.engine import Engine

MOST_OUTPUT_BYTES = (16 << 20) - 1024
"""Of ExecSync, of both streams together: a kubelet takes no message of more than 16 MiB."""


class PodContainers:
    """One engine's."""

    def __init__(self, engine: Engine, pods: Pods, image_of: ImageOf) -> None:
        self._containers: Containers = engine.containers
        self._execs: Execs = engine.containers.execs
        self._pods = pods
        self._image_of = image_of

    async def create(self, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
        """CreateContainer."""
        sandbox = self._pods.sandbox(request.pod_sandbox_id)
        if not is_ready(sandbox):
            raise Conflict(f"sandbox {sandbox.id} is not running")
        config = request.config
        wanted = container_request(config, sandbox.config, sandbox.container.record)
        name = container_name(config.metadata.name, sandbox.config.metadata, config.metadata.attempt)
        refuse_taken(self._containers, name)
        origin = await self._origin(sandbox, config)
        made = await self._containers.create(name, wanted, origin)
        if sandbox.container.doomed or not is_ready(sandbox):  # it has gone meanwhile, without this one
            await remove(self._containers, self._containers.find(made.id))
            raise NotFound(f"No such pod sandbox: {sandbox.id}")
        return cri.CreateContainerResponse(container_id=made.id)

    async def _origin(self, sandbox: Sandbox, config: cri.ContainerConfig) -> Origin:
        log = log_path(sandbox.config.log_directory, config.log_path)
        if log:
            await asyncio.to_thread(Path(log).parent.mkdir, parents=True, exist_ok=True)
        note = cri.CreateContainerRequest(pod_sandbox_id=sandbox.id, config=config)
        return Origin(
            kind=POD_CONTAINER,
            log_path=log,
            log_format="cri" if log else "none",
            group_rule=group_rule(config.linux.security_context),
            note=note.SerializeToString(deterministic=True),
        )

    async def start(self, request: cri.StartContainerRequest) -> cri.StartContainerResponse:
        """StartContainer: once; a kubelet makes another container when it wants it to run again."""
        member = self._pods.member(request.container_id)
        if container_state(member.container.record) != cri.CONTAINER_CREATED:
            state = cri.ContainerState.Name(container_state(member.container.record))
            raise Conflict(f"container {member.id} is in {state} state, expected CONTAINER_CREATED")
        await self._containers.start(member.container)
        return cri.StartContainerResponse()

    async def stop(self, request: cri.StopContainerRequest) -> cri.StopContainerResponse:
        """StopContainer: by its signal, and after so many seconds by force."""
        with suppress(NotFound, NotModified):
            container = self._pods.member(request.container_id).container
            if request.timeout > 0:
                await self._containers.stop(container, request.timeout)
            else:
                await end(self._containers, container)
        return cri.StopContainerResponse()

    async def remove(self, request: cri.RemoveContainerRequest) -> cri.RemoveContainerResponse:
        """RemoveContainer: its log stays, which is the kubelet's."""
        with suppress(NotFound):
            await remove(self._containers, self._pods.member(request.container_id).container)
        return cri.RemoveContainerResponse()

    async def status(self, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
        """ContainerStatus."""
        member = self._pods.member(request.container_id)
        info = container_info(member, member.container.record.cgroup) if request.verbose else {}
        return cri.ContainerStatusResponse(status=container_status(member, self._image_of), info=info)

    async def list(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        """ListContainers: those that everything said in the filter is true of."""
        wanted = request.filter
        found = [
            container_item(member)
            for member in self._pods.members([wanted.id] if wanted.id else None)
            if (not wanted.pod_sandbox_id or member.sandbox_id.startswith(wanted.pod_sandbox_id))
            and (not wanted.HasField("state") or wanted.state.state == container_state(member.container.record))
            and has_labels(member.config.labels, wanted.label_selector)
        ]
        return cri.ListContainersResponse(containers=found)

    async def update_resources(self, request: cri.UpdateContainerResourcesRequest) -> cri.UpdateContainerResourcesResponse:
        """UpdateContainerResources: at once, also of one that runs."""
        member = self._pods.member(request.container_id)
        await self._containers.update(member.container, limits(request.linux))
        return cri.UpdateContainerResourcesResponse()

    async def reopen_log(self, request: cri.ReopenContainerLogRequest) -> cri.ReopenContainerLogResponse:
        """ReopenContainerLog: the kubelet has moved it away."""
        await self._containers.reopen_log(self._pods.member(request.container_id).container)
        return cri.ReopenContainerLogResponse()

    async def exec_sync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
        """ExecSync: run a command to its end, which comes by force after so many seconds; 0: never."""
        member = self._pods.member(request.container_id)
        if not request.cmd:
            raise InvalidParameter("no command specified")
        config = msgspec.structs.replace(ExecConfig(), cmd=tuple(request.cmd))
        timeout_s = float(request.timeout) if request.timeout > 0 else None
        try:
            result = await self._execs.run(member.container, config, timeout_s, MOST_OUTPUT_BYTES)
        except TimeoutError as error:
            raise TimeoutError(f"command {' '.join(request.cmd)!r} timed out after {request.timeout} s") from error
        stdout = result.output[: max(MOST_OUTPUT_BYTES // 2, MOST_OUTPUT_BYTES - len(result.stderr))]
        stderr = result.stderr[: MOST_OUTPUT_BYTES - len(stdout)]
        return cri.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=result.code)


def log_path(directory: str, name: str) -> str:
    """Where a container's log is, "": nowhere; raises InvalidParameter for a name that leads elsewhere."""
    if not directory or not name:
        return ""
    path = posixpath.normpath(posixpath.join(directory, name))
    if not path.startswith("/") or not path.startswith(posixpath.normpath(directory).rstrip("/") + "/"):
        raise InvalidParameter(f"invalid log path {name!r}, expected one below {directory!r}")
    return path
