"""CRI's calls about pod sandboxes; must not know containers beyond ending them with their sandbox.

Stopping and removing may be asked for again and again, and of what is not there any more.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from cri_api.v1 import api_pb2 as cri

from runtime.config import CreateRequest
from runtime.containers import bundle
from runtime.containers.container import Container
from runtime.containers.origin import SANDBOX, Origin
from runtime.containers.waiting import Condition
from runtime.cri.answers import ImageOf, container_status, sandbox_info, sandbox_item, sandbox_state, sandbox_status
from runtime.cri.errors import AlreadyThere
from runtime.cri.pods import Pods, Sandbox, has_labels
from runtime.cri.sandbox_config import check_metadata, container_name, resolver_text, sandbox_group_rule, sandbox_request
from runtime.errors import Conflict, InvalidParameter, NotFound, NotModified, Unavailable
from runtime.monitor.build import built_monitor

if TYPE_CHECKING:
    from runtime.containers.store import Containers
    from runtime.engine import Engine
    from runtime.networks.store import Networks

REMOVED_WITHIN_S = 60.0
"""By somebody else."""
HANDLERS = ("", "runc")
"""Runtimes that a RuntimeClass may name."""


class Sandboxes:
    """One engine's."""

    def __init__(self, engine: Engine, pods: Pods, image_of: ImageOf) -> None:
        self._containers = engine.containers
        self._networks = engine.networks
        self._pods = pods
        self._image_of = image_of

    async def run(self, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
        """RunPodSandbox: whole, with its network, or not at all."""
        config = request.config
        check_metadata(config)
        if request.runtime_handler not in HANDLERS:
            raise InvalidParameter(f'no runtime for "{request.runtime_handler}" is configured')
        on_host = config.linux.security_context.namespace_options.network == cri.NODE
        network = "" if on_host else pod_network(self._networks)
        name = container_name("POD", config.metadata, config.metadata.attempt)
        refuse_taken(self._containers, name)
        wanted = sandbox_request(config, network, await asyncio.to_thread(built_monitor))
        container = await self._made(name, wanted, request)
        try:
            await self._containers.start(container)
            if config.HasField("dns_config"):
                texts = {bundle.RESOLV_CONF: resolver_text(config.dns_config)}
                await asyncio.to_thread(bundle.write_etc, container.directory, texts)
        except BaseException:
            await self._containers.remove(container, force=True, volumes=True)
            raise
        return cri.RunPodSandboxResponse(pod_sandbox_id=container.id)

    async def _made(self, name: str, wanted: CreateRequest, request: cri.RunPodSandboxRequest) -> Container:
        origin = Origin(
            kind=SANDBOX,
            log_format="none",
            group_rule=sandbox_group_rule(request.config),
            note=request.SerializeToString(deterministic=True),
        )
        made = await self._containers.create(name, wanted, origin)
        return self._containers.find(made.id)

    async def stop(self, request: cri.StopPodSandboxRequest) -> cri.StopPodSandboxResponse:
        """StopPodSandbox: end its containers and itself, and take its network away."""
        with suppress(NotFound):
            await self._stop(self._pods.sandbox(request.pod_sandbox_id))
        return cri.StopPodSandboxResponse()

    async def _stop(self, sandbox: Sandbox) -> None:
        members = self._pods.members_of(sandbox.id)
        await asyncio.gather(*(end(self._containers, member.container) for member in members))
        await end(self._containers, sandbox.container)

    async def remove(self, request: cri.RemovePodSandboxRequest) -> cri.RemovePodSandboxResponse:
        """RemovePodSandbox: with all its containers, which are ended first."""
        with suppress(NotFound):
            sandbox = self._pods.sandbox(request.pod_sandbox_id)
            await self._stop(sandbox)
            members = self._pods.members_of(sandbox.id)
            await asyncio.gather(*(remove(self._containers, member.container) for member in members))
            await remove(self._containers, sandbox.container)
        return cri.RemovePodSandboxResponse()

    async def status(self, request: cri.PodSandboxStatusRequest) -> cri.PodSandboxStatusResponse:
        """PodSandboxStatus."""
        sandbox = self._pods.sandbox(request.pod_sandbox_id)
        return cri.PodSandboxStatusResponse(
            status=sandbox_status(sandbox),
            info=sandbox_info(sandbox, sandbox.container.record.cgroup) if request.verbose else {},
            containers_statuses=[container_status(member, self._image_of) for member in self._pods.members_of(sandbox.id)],
            timestamp=time.time_ns(),
        )

    async def list(self, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
        """ListPodSandbox: those that everything said in the filter is true of."""
        wanted = request.filter
        found = self._pods.sandboxes([wanted.id] if wanted.id else None)
        items = [
            sandbox_item(sandbox)
            for sandbox in found
            if (not wanted.HasField("state") or wanted.state.state == sandbox_state(sandbox))
            and has_labels(sandbox.config.labels, wanted.label_selector)
        ]
        return cri.ListPodSandboxResponse(items=items)

    async def update_resources(self, request: cri.UpdatePodSandboxResourcesRequest) -> cri.UpdatePodSandboxResourcesResponse:
        """UpdatePodSandboxResources: the pod's own control group is the kubelet's, and a sandbox's process uses nothing."""
        self._pods.sandbox(request.pod_sandbox_id)
        return cri.UpdatePodSandboxResourcesResponse()


def pod_network(networks: Networks) -> str:
    """The network of pods: the first in the CNI directory; raises Unavailable when there is none."""
    found = next((network.name for network in networks.list({}) if network.driver == "cni"), None)
    if found is None:
        raise Unavailable("network is not ready: no CNI network configuration found")
    return found


def refuse_taken(containers: Containers, name: str) -> None:
    """Raise AlreadyThere when a container has that name."""
    with suppress(NotFound):
        taken = containers.find(name)
        raise AlreadyThere(f"name {name} is reserved for {taken.id}")


async def end(containers: Containers, container: Container) -> None:
    """Kill it if it runs; raises EngineError when it cannot be."""
    if container.is_running:
        with suppress(NotModified, Conflict):  # it has ended by itself
            await containers.kill(container, "SIGKILL")


async def remove(containers: Containers, container: Container) -> None:
    """Kill and remove it with what was made for it; if somebody else is at it, wait for that. Raises EngineError, TimeoutError."""
    gone = containers.wait(container, Condition.REMOVED)
    try:
        await containers.remove(container, force=True, volumes=True)
    except NotFound:
        return
    except Conflict:
        if not container.doomed:
            raise
        async with asyncio.timeout(REMOVED_WITHIN_S):
            await gone
    finally:
        gone.cancel()
