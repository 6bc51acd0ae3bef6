"""Sandboxes and their containers among all containers of the engine, with what a kubelet asked for; must not know any call.

The request is in the record's note, as it came: what a kubelet sets it gets back, field by field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cri_api.v1 import api_pb2 as cri

from runtime.containers.container import Container
from runtime.containers.origin import POD_CONTAINER, SANDBOX
from runtime.containers.store import Containers
from runtime.errors import NotFound

_SHARED = "container:"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's."""

    container: Container
    request: cri.RunPodSandboxRequest

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def config(self) -> cri.PodSandboxConfig:
        return self.request.config


@dataclass(frozen=True, slots=True)
class Member:
    """A container in a sandbox."""

    container: Container
    request: cri.CreateContainerRequest
    """Without the sandbox's config."""

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def config(self) -> cri.ContainerConfig:
        return self.request.config

    @property
    def sandbox_id(self) -> str:
        return self.container.record.host.network_mode.removeprefix(_SHARED)


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether all that are selected by are there."""
    return all(labels.get(name) == value for name, value in selector.items())


class Pods:
    """All of an engine."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    def sandbox(self, identity: str) -> Sandbox:
        """By its id or the unique beginning of one; raises NotFound, InvalidParameter."""
        return _sandbox(self._find(identity, SANDBOX, "pod sandbox"))

    def member(self, identity: str) -> Member:
        """A container by its id or the unique beginning of one; raises NotFound, InvalidParameter."""
        return _member(self._find(identity, POD_CONTAINER, "container"))

    def _find(self, identity: str, kind: str, what: str) -> Container:
        found = self._containers.find(identity)
        if found.record.kind != kind or not found.id.startswith(identity):
            raise NotFound(f"No such {what}: {identity}")
        return found

    def sandboxes(self, selected: Iterable[str] | None = None) -> Iterator[Sandbox]:
        """All, or those whose ids begin so; newest first."""
        return map(_sandbox, self._of_kind(SANDBOX, selected))

    def members(self, selected: Iterable[str] | None = None) -> Iterator[Member]:
        """All containers, or those whose ids begin so; newest first."""
        return map(_member, self._of_kind(POD_CONTAINER, selected))

    def members_of(self, sandbox_id: str) -> list[Member]:
        """The containers of one sandbox."""
        return [member for member in self.members() if member.sandbox_id == sandbox_id]

    def _of_kind(self, kind: str, selected: Iterable[str] | None) -> Iterator[Container]:
        beginnings = None if selected is None else tuple(selected)
        for container in self._containers.all():
            if container.record.kind == kind and (beginnings is None or container.id.startswith(beginnings)):
                yield container


def _sandbox(container: Container) -> Sandbox:
    return Sandbox(container, cri.RunPodSandboxRequest.FromString(container.record.note))


def _member(container: Container) -> Member:
    return Member(container, cri.CreateContainerRequest.FromString(container.record.note))
