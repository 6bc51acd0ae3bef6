"""What images there are and what they are called, on disk and in memory; must not know blobs, layers or Docker's rules.

images/HEX.json             one image: which blobs it is made of, by which digests it is known
images/repositories.json    tag -> image

Every file is replaced as a whole. Whatever moment the engine dies at, what is there can be read, and is of before or of after.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from flanneld.log import Log
from runtime.images.content import hex_of
from runtime.images.image import Descriptor
from runtime.layout import Layout

T = TypeVar("T")
_NAMES = "repositories.json"
log = Log(__name__)


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of an image beside its config."""

    id: str
    manifest: str = ""
    """Digest of the manifest it came with; "": made here."""
    blobs: tuple[Descriptor, ...] = ()
    """Its layers as they travel, lowest first."""
    digests: tuple[str, ...] = ()
    """Canonical names by digest that it was pulled or pushed by."""
    parent: str = ""
    is_hidden: bool = False
    """Removed by force while containers are made of it: gone for all but these, and really gone when they are."""


class Catalogue:
    """The records of one engine. One caller at a time changes them; others read meanwhile, and see before or after."""

    def __init__(self, layout: Layout) -> None:
        self._directory = layout.images
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.images: dict[str, Stored] = {}
        self.tags: dict[str, str] = {}
        """Canonical name -> id."""
        self._hasty: set[str] = set()
        """Images whose records power loss may still take."""
        self._load()

    def _load(self) -> None:
        for path in self._directory.glob("*.json"):
            if path.name != _NAMES and (stored := _read(path, Stored)) is not None:
                self.images[stored.id] = stored
        tags = _read(self._directory / _NAMES, dict[str, str]) or {}
        self.tags = {name: image_id for name, image_id in tags.items() if image_id in self.images}
        for path in self._directory.glob(".*"):
            path.unlink()  # written halfway by an engine that was killed

    def put(self, stored: Stored, *, durable: bool = True) -> None:
        """Remember an image, or what has changed of it. Not durable: power loss may take it, until it gets a name."""
        self._write(f"{hex_of(stored.id)}.json", stored, durable=durable)
        self.images = {**self.images, stored.id: stored}
        (self._hasty.discard if durable else self._hasty.add)(stored.id)

    def drop(self, image_id: str) -> None:
        """Forget an image and its names."""
        self._hasty.discard(image_id)
        self.unname([name for name, named in self.tags.items() if named == image_id])
        (self._directory / f"{hex_of(image_id)}.json").unlink(missing_ok=True)
        self.images = {key: stored for key, stored in self.images.items() if key != image_id}

    def name(self, canonical: str, image_id: str) -> None:
        """Give an image a name, whoever had it."""
        if image_id in self._hasty:
            self.put(self.images[image_id])
        if self.tags.get(canonical) != image_id:
            self._save_tags(self.tags | {canonical: image_id})

    def unname(self, canonical: Iterable[str]) -> None:
        """Forget names."""
        gone = set(canonical) & self.tags.keys()
        if gone:
            self._save_tags({name: image_id for name, image_id in self.tags.items() if name not in gone})

    def _save_tags(self, tags: dict[str, str]) -> None:
        self._write(_NAMES, tags, durable=True)
        self.tags = tags

    def _write(self, name: str, value: object, *, durable: bool) -> None:
        temporary = self._directory / f".{name}"
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(value))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, self._directory / name)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("record of images unreadable and ignored", path=path, error=error)
        return None
