"""Every container by id and by name; must not know what may be done with one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from runtime.containers.container import Container
from runtime.containers.names import check_name, free_name
from runtime.errors import Conflict, InvalidParameter, NotFound
from runtime.images.remove import Use


@dataclass(slots=True)
class Claims:
    """What is a container's already while it is being made."""

    name: str
    images: set[str] = field(default_factory=set)
    volumes: set[str] = field(default_factory=set)


_PREFIX = re.compile(r"[0-9a-f]{1,64}")


class Index:
    """A name belongs to at most one container, and is taken from the moment one is being made for it."""

    def __init__(self) -> None:
        self._by_id: dict[str, Container] = {}
        self._ids: dict[str, str] = {}
        self._claims: dict[str, Claims] = {}
        """By the id of a container that is being made."""

    def all(self) -> list[Container]:
        """Newest first, as `docker ps` shows them."""
        return sorted(self._by_id.values(), key=lambda container: container.record.created, reverse=True)

    def find(self, reference: str) -> Container:
        """By whole id, name (a slash in front or not) or unique beginning of an id; raises NotFound, InvalidParameter."""
        found = self.get(reference) or self.get(self._ids.get(reference.removeprefix("/"), ""))
        if found is not None:
            return found
        matches = [identity for identity in self._by_id if identity.startswith(reference)] if _PREFIX.fullmatch(reference) else []
        if len(matches) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {reference}")
        if not matches:
            raise NotFound(f"No such container: {reference}")
        return self._by_id[matches[0]]

    def get(self, identity: str) -> Container | None:
        """By whole id."""
        return self._by_id.get(identity)

    @contextmanager
    def claimed(self, name: str, identity: str) -> Iterator[Claims]:
        """The name ("": any free one) is taken for that container, and free again if it is not added within the context.

        Raises InvalidParameter, Conflict.
        """
        plain = self.take(name, identity) if name else free_name(self._ids.__contains__)
        self._ids[plain] = identity
        claims = self._claims[identity] = Claims(plain)
        try:
            yield claims
        finally:
            if identity not in self._by_id:
                self.free(plain)
            self._claims.pop(identity, None)

    def take(self, name: str, identity: str) -> str:
        """Give a container a name, besides what it has; returns it as it is kept. Raises InvalidParameter, Conflict."""
        plain = check_name(name)
        if plain in self._ids:
            raise Conflict(
                f'Conflict. The container name "/{plain}" is already in use by container "{self._ids[plain]}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._ids[plain] = identity
        return plain

    def free(self, name: str) -> None:
        """The name is nobody's."""
        self._ids.pop(name, None)

    def of_image(self, image_id: str) -> list[Use]:
        """The containers made of that image, or that have it mounted, those that are being made included."""
        made = [Use(c.id, c.is_running) for c in self._by_id.values() if _needs(c, image_id)]
        return made + [Use(identity, is_running=False) for identity, claims in self._claims.items() if image_id in claims.images]

    def of_volume(self, name: str) -> list[str]:
        """Ids of the containers that have that volume mounted, or are to have it."""
        users = [c.id for c in self._by_id.values() if any(m.type == "volume" and m.name == name for m in c.record.mounts)]
        return users + [identity for identity, claims in self._claims.items() if name in claims.volumes]

    def add(self, container: Container) -> None:
        """It is made, its record written."""
        self._by_id[container.id] = container
        self._ids[container.name] = container.id

    def discard(self, container: Container) -> None:
        """It is gone."""
        self._by_id.pop(container.id, None)
        self.free(container.name)


def _needs(container: Container, image_id: str) -> bool:
    record = container.record
    return record.image_id == image_id or any(point.type == "image" and point.source == image_id for point in record.mounts)
