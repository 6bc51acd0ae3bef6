"""What `docker rmi` and `docker image prune` do, by Docker's rules (moby, daemon/images/image_delete.go): names go first, an
image with its last name, its unnamed parents after it. Must not know where blobs and layers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from msgspec import structs

from runtime.errors import Conflict
from runtime.images.catalogue import Catalogue
from runtime.images.image import Image
from runtime.images.layers import chain_ids
from runtime.images.reference import Reference, parse_reference

if TYPE_CHECKING:
    from runtime.images.store import Images


@dataclass(frozen=True, slots=True)
class Use:
    """A container that is made of an image."""

    container_id: str
    is_running: bool


InUse: TypeAlias = Callable[[str], Sequence[Use]]
"""From an image's id to what is made of it."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went."""

    deleted: list[dict[str, str]]
    """{"Untagged": name} or {"Deleted": id of an image or chain id of a layer}."""
    bytes: int
    """Of the layers."""


class Removal:
    """One request's removals: the catalogue is changed at once, `done` and `layers` say what went."""

    def __init__(self, images: Images, catalogue: Catalogue, in_use: InUse) -> None:
        self._images = images
        self._catalogue = catalogue
        self._in_use = in_use
        self.done: list[dict[str, str]] = []
        self.layers: list[str] = []
        """Chain ids that no image needs any more."""
        for stored in tuple(catalogue.images.values()):
            if stored.is_hidden and not in_use(stored.id):
                catalogue.drop(stored.id)

    def remove(self, name: str, image: Image, *, force: bool, prune: bool) -> None:
        """Remove the image that was asked for as `name`, an id or a name; raises Conflict."""
        names = self._names(image.id)
        if image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
            if _is_one_name(names):
                self._check(image.id, force=force, with_names=False)
                self._untag(image.id, names)
            self._delete(image, force=force, prune=prune)
            return
        if not force and _is_one_name(names) and (uses := self._in_use(image.id)):
            raise Conflict(
                f'conflict: unable to remove repository reference "{name}" (must force) - '
                f"container {_short(uses[0].container_id)} is using its referenced image {_short(image.id)}"
            )
        self._untag(image.id, _with_digests(parse_reference(name).with_default_tag(), names))
        if not self._names(image.id):
            with suppress(Conflict):  # the name is gone, and that was asked for
                self._delete(image, force=force, prune=prune)

    def prune(self, dangling_only: bool, takes: Callable[[Image], bool]) -> None:
        """Remove every image that no container is made of and that has no tag; or has one, too."""
        while found := next(
            (image for image in self._images.list() if self._is_unused(image, dangling_only) and takes(image)), None
        ):
            self._untag(found.id, self._names(found.id))
            self._delete(found, force=False, prune=True)

    def _is_unused(self, image: Image, dangling_only: bool) -> bool:
        is_spared = dangling_only and bool(image.tags)
        return not (is_spared or self._images.children(image.id) or self._in_use(image.id))

    def _names(self, image_id: str) -> list[Reference]:
        tags = sorted(name for name, named in self._catalogue.tags.items() if named == image_id)
        return [parse_reference(name) for name in (*tags, *self._catalogue.images[image_id].digests)]

    def _untag(self, image_id: str, names: Sequence[Reference]) -> None:
        canonical = {name.canonical for name in names}
        self._catalogue.unname(canonical)
        stored = self._catalogue.images[image_id]
        if canonical & set(stored.digests):
            kept = tuple(name for name in stored.digests if name not in canonical)
            self._catalogue.put(structs.replace(stored, digests=kept))
        for name in names:
            self.done.append({"Untagged": name.familiar})
            self._tell("untag", image_id)

    def _delete(self, image: Image, *, force: bool, prune: bool) -> None:
        """Remove an image with all its names, and its parents as long as nobody minds; raises Conflict."""
        self._check(image.id, force=force)
        self._untag(image.id, self._names(image.id))
        self._tell("delete", image.id)
        self.done.append({"Deleted": image.id})
        if self._in_use(image.id):
            self._catalogue.put(structs.replace(self._catalogue.images[image.id], is_hidden=True))
        else:
            self._catalogue.drop(image.id)
            self._count_layers(image)
        if prune and image.parent:
            with suppress(Conflict):
                self._delete(self._images.find(image.parent), force=False, prune=True)

    def _count_layers(self, image: Image) -> None:
        needed = self._images.needed_chains()
        gone = [chain for chain in reversed(chain_ids(image.config.rootfs.diff_ids)) if chain not in needed]
        self.layers += gone
        self.done += [{"Deleted": chain} for chain in gone]

    def _check(self, image_id: str, *, force: bool, with_names: bool = True) -> None:
        """Raise Conflict if something stands against it; `force` outweighs names and containers that do not run."""
        uses = self._in_use(image_id)
        running = [use for use in uses if use.is_running]
        if self._images.children(image_id):
            raise _conflict(image_id, "cannot be forced", "image has dependent child images")
        if running:
            raise _conflict(
                image_id, "cannot be forced", f"image is being used by running container {_short(running[0].container_id)}"
            )
        if not force and with_names and self._names(image_id):
            raise _conflict(image_id, "must be forced", "image is referenced in multiple repositories")
        if not force and uses:
            raise _conflict(image_id, "must be forced", f"image is being used by stopped container {_short(uses[0].container_id)}")

    def _tell(self, action: str, image_id: str) -> None:
        labels = self._images.find(image_id).config.config.labels
        self._images.events.tell("image", action, image_id, {**labels, "name": image_id})


def _conflict(image_id: str, force: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {_short(image_id)} ({force}) - {why}")


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:12]


def _is_one_name(names: Sequence[Reference]) -> bool:
    """At most one tag, and digests in its repository only: whoever removes the id means the name, too."""
    tags = [name for name in names if name.tag]
    return bool(names) and len(tags) <= 1 and len({name.repository for name in names}) == 1


def _with_digests(removed: Reference, names: Sequence[Reference]) -> list[Reference]:
    """That name, and when it is the last tag of its repository the digests there as well."""
    if removed.digest:
        return [removed.with_digest(removed.digest)]
    others = [name for name in names if name.repository == removed.repository and name != removed]
    return [removed] if any(name.tag for name in others) else [removed, *others]
