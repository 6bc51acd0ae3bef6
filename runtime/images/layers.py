"""Layers unpacked, each a directory by its chain id, ready to be overlayfs's lower ones; must not know images or containers.

layers/CHAIN/diff         what the layer has, whiteouts as overlayfs wants them
layers/CHAIN/layer.json   its parent, size and digest
layers/CHAIN/settled      it is on the disk: power loss does not hurt it
l/SHORT -> ../layers/CHAIN/diff

A layer appears by rename, whole. Thousands of files are not synced one by one: until `settle` a layer is believed for as long as
the machine runs, and not after. All of it may be called from any thread.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from flanneld.log import Log
from runtime.errors import EngineError, NotFound
from runtime.images.content import Content, DigestMismatch, hex_of
from runtime.images.decompress import decompressed
from runtime.images.extract import extract
from runtime.images.limits import Limits, limited
from runtime.images.pack import pack
from runtime.images.read_ahead import ReadAhead
from runtime.layout import Layout
from runtime.linux.sync import sync_file_system
from runtime.linux.trees import discard_tree

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RECORD, _SETTLED, _DIFF = "layer.json", "settled", "diff"
log = Log(__name__)


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The ids of the stacks that these layers, lowest first, form: each layer's own with all below (OCI image-spec, "ChainID")."""
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(chain_id(chains[-1] if chains else "", diff_id))
    return tuple(chains)


def chain_id(parent: str, diff_id: str) -> str:
    """The id of a layer upon the stack `parent` ("": none)."""
    return f"sha256:{hashlib.sha256(f'{parent} {diff_id}'.encode()).hexdigest()}" if parent else diff_id


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one."""

    diff_id: str
    parent: str
    """Chain id of what is below; "": nothing."""
    size: int
    """Bytes of its files."""
    boot: str
    """Of the machine's life in which it was unpacked."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A directory made a layer."""

    diff_id: str
    blob_digest: str
    """The archive, kept uncompressed."""
    size: int
    """Bytes of the archive."""
    chain_id: str


class Layers:
    """The layers of one engine."""

    def __init__(self, layout: Layout, content: Content, limits: Limits | None = None) -> None:
        self._layout = layout
        self._content = content
        self._limits = limits or Limits()
        self._boot = _BOOT_ID.read_text().strip()
        for directory in (layout.layers, layout.links, layout.temporary):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._layers: dict[str, Layer] = {}
        self._settled: set[str] = set()
        self._read_all()

    def has(self, chain: str) -> bool:
        """Whether the layer and all below it are here."""
        return chain in self._layers

    def size(self, chain: str) -> int:
        """Bytes of this one layer's files; raises NotFound."""
        return self._find(chain).size

    def lower_dirs(self, chain: str) -> tuple[Path, ...]:
        """The directories of a stack, topmost first, by short names; "": none. Raises NotFound."""
        found = []
        while chain:
            found.append(self._link(chain))
            chain = self._find(chain).parent
        return tuple(found)

    def chains(self) -> list[str]:
        """Every layer there is."""
        return list(self._layers)

    def unpack(self, blob: Path | BinaryIO, media_type: str, diff_id: str, parent: str) -> str:
        """Unpack an archive upon the stack `parent`, and return the chain id; one that is here already is left as it is. Blocking.

        Raises BadArchive, DigestMismatch (it is not the layer that `diff_id` names), EngineError. The media type is not asked:
        the first bytes say what it is.
        """
        hex_of(diff_id)
        chain = chain_id(parent, diff_id)
        if self.has(chain):
            return chain
        if isinstance(blob, Path):
            with blob.open("rb") as file:
                return self.unpack(file, media_type, diff_id, parent)
        with self._staged() as staging:
            size = self._extract(blob, diff_id, staging / _DIFF)
            self._publish(staging, chain, Layer(diff_id=diff_id, parent=parent, size=size, boot=self._boot))
        return chain

    def commit(self, upper: Path, parent_chain: str, *, move: bool = False) -> Committed:
        """Make an overlay's upper directory a layer: an archive in the content, and unpacked. Blocking; raises EngineError.

        `move`: the directory itself becomes the layer, and must be mounted nowhere.
        """
        with _failures("commit a layer"), self._content.writer() as writer:
            files_size = pack(upper, writer.write)
            diff_id = writer.commit()
        size = self._content.size(diff_id)
        chain = chain_id(parent_chain, diff_id)
        if not move:
            self.unpack(self._content.path(diff_id), "", diff_id, parent_chain)
        elif not self.has(chain):
            with self._staged() as staging:
                os.rename(upper, staging / _DIFF)
                layer = Layer(diff_id=diff_id, parent=parent_chain, size=files_size, boot=self._boot)
                self._publish(staging, chain, layer)
        return Committed(diff_id, diff_id, size, chain)

    def settle(self, chains: Iterable[str]) -> None:
        """Return when power loss does not hurt these layers any more; for those that have been settled, at once. Blocking."""
        new = [chain for chain in chains if chain not in self._settled]
        if not new:
            return
        sync_file_system(self._layout.root)
        for chain in new:
            descriptor = os.open(self._layout.layers / hex_of(chain) / _SETTLED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._settled.update(new)

    def discard(self, chain: str, trash: Path) -> None:
        """Remove a layer that nothing stands on, at once, leaving its files in a directory to be deleted at leisure."""
        if self._layers.pop(chain, None) is not None:
            self._settled.discard(chain)
            self._link(chain).unlink(missing_ok=True)
            os.rename(self._layout.layers / hex_of(chain), trash / hex_of(chain))

    def unneeded(self, keep: Iterable[str]) -> list[str]:
        """The layers that are neither among these nor below them."""
        needed: set[str] = set()
        for chain in keep:
            while chain and chain not in needed and (layer := self._layers.get(chain)):
                needed.add(chain)
                chain = layer.parent
        return [chain for chain in self._layers if chain not in needed]

    def _find(self, chain: str) -> Layer:
        try:
            return self._layers[chain]
        except KeyError:
            raise NotFound(f"layer {chain} is not here") from None

    def _link(self, chain: str) -> Path:
        # Overlay's options have to fit a page with 127 of these; 130 of the 256 bits tell layers apart.
        return self._layout.links / base64.b32encode(bytes.fromhex(hex_of(chain)))[:26].decode()

    def _extract(self, blob: BinaryIO, diff_id: str, target: Path) -> int:
        target.mkdir()
        target.chmod(0o755)
        taken = 0
        digest = hashlib.sha256()

        def read(size: int) -> bytes:
            nonlocal taken
            data = blob.read(size)
            taken += len(data)
            return data

        def hashed() -> Iterator[bytes]:
            for chunk in limited(decompressed(read), lambda: taken, self._limits):
                digest.update(chunk)
                yield chunk

        with _failures("register layer"), _directory(target) as descriptor, ReadAhead(hashed()) as chunks:
            size = extract(chunks, descriptor, self._limits)
        found = f"sha256:{digest.hexdigest()}"
        if found != diff_id:
            raise DigestMismatch(f"the layer's digest is {found}, expected {diff_id}")
        return size

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A directory for a layer that is not yet one; gone afterwards, unless it has become one."""
        staging = self._layout.temporary / f"layer-{os.urandom(16).hex()}"
        staging.mkdir(mode=0o700)
        try:
            yield staging
        finally:
            discard_tree(staging)

    def _publish(self, staging: Path, chain: str, layer: Layer) -> None:
        if layer.parent:
            self._find(layer.parent)
        (staging / _RECORD).write_bytes(msgspec.json.encode(layer))
        self._make_link(chain)
        try:
            os.rename(staging, self._layout.layers / hex_of(chain))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return  # somebody else was faster, with the same
        self._layers[chain] = layer

    def _make_link(self, chain: str) -> None:
        with suppress(FileExistsError):
            self._link(chain).symlink_to(f"../{self._layout.layers.name}/{hex_of(chain)}/{_DIFF}")

    def _read_all(self) -> None:
        """Take over what earlier engines left; what cannot be trusted, and what stands upon it, is removed."""
        found = {f"sha256:{directory.name}": self._read(directory) for directory in self._layout.layers.iterdir()}
        for chain, layer in found.items():
            below = layer
            while below is not None and below.parent:
                below = found.get(below.parent)
            if layer is not None and below is not None:
                self._layers[chain] = layer
                self._make_link(chain)
                if (self._layout.layers / hex_of(chain) / _SETTLED).exists():
                    self._settled.add(chain)
            else:
                log.warning("layer dropped that may have lost files with the machine", layer=chain)
                discard_tree(self._layout.layers / chain.removeprefix("sha256:"))

    def _read(self, directory: Path) -> Layer | None:
        """The layer in there; None: it is not whole, or not surely on the disk since the machine went down."""
        try:
            layer = msgspec.json.decode((directory / _RECORD).read_bytes(), type=Layer)
        except (OSError, msgspec.DecodeError):
            return None
        is_itself = chain_id(layer.parent, layer.diff_id) == f"sha256:{directory.name}"
        return layer if is_itself and (layer.boot == self._boot or (directory / _SETTLED).exists()) else None


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """A disk that is full or fails is told in Docker's words."""
    try:
        yield
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        raise EngineError(f"failed to {what}:{name} {(error.strerror or '').lower()}") from error
