"""CRI's stream of events, of the engine's own; must not know who listens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from cri_api.v1 import api_pb2 as cri

from runtime.cri.answers import ImageOf, container_status, sandbox_status
from runtime.cri.pods import Pods
from runtime.cri.sandbox_config import SANDBOX_LABEL, TYPE_LABEL
from runtime.errors import NotFound

if TYPE_CHECKING:
    from runtime.engine import Engine
    from runtime.events import Event

KINDS = {
    "create": cri.CONTAINER_CREATED_EVENT,
    "start": cri.CONTAINER_STARTED_EVENT,
    "die": cri.CONTAINER_STOPPED_EVENT,
    "destroy": cri.CONTAINER_DELETED_EVENT,
}
"""The engine's action -> CRI's; of sandboxes and containers alike."""


class PodEvents:
    """One engine's."""

    def __init__(self, engine: Engine, pods: Pods, image_of: ImageOf) -> None:
        self._events = engine.events
        self._pods = pods
        self._image_of = image_of

    async def stream(self, request: cri.GetEventsRequest) -> AsyncGenerator[cri.ContainerEventResponse, None]:
        """GetContainerEvents: from now on, until the client leaves."""
        async with aclosing(self._events.listen()) as told:
            async for event in told:
                if event.type == "container" and event.action in KINDS and TYPE_LABEL in event.attributes:
                    yield self._told(event)

    def _told(self, event: Event) -> cri.ContainerEventResponse:
        """With the whole pod as it is by now."""
        response = cri.ContainerEventResponse(
            container_id=event.actor, container_event_type=KINDS[event.action], created_at=event.time_ns
        )
        try:
            sandbox = self._pods.sandbox(event.attributes.get(SANDBOX_LABEL, event.actor))
        except NotFound:
            return response
        response.pod_sandbox_status.CopyFrom(sandbox_status(sandbox))
        members = self._pods.members_of(sandbox.id)
        response.containers_statuses.extend(container_status(member, self._image_of) for member in members)
        return response
