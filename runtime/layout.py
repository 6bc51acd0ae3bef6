"""Where the engine keeps things: one directory that lasts and one that a reboot clears; must not know what is in the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/var/lib/tartan/runtime")
RUN = Path("/run/tartan")


@dataclass(frozen=True, slots=True)
class Layout:
    """Every path of an engine; two engines with other paths do not meet."""

    root: Path = ROOT
    """Lasts: images, containers' records and writable layers, volumes, networks."""
    run: Path = RUN
    """Gone after a reboot: sockets, bundles, monitors' state, mounts."""

    @property
    def content(self) -> Path:
        """Blobs by digest: manifests, configs, layers as they travel."""
        return self.root / "content"

    @property
    def layers(self) -> Path:
        """Layers unpacked, by chain id."""
        return self.root / "layers"

    @property
    def links(self) -> Path:
        """Short names of unpacked layers: overlay's options have to fit one page."""
        return self.root / "l"

    @property
    def images(self) -> Path:
        """What images there are and what they are called."""
        return self.root / "images"

    @property
    def volumes(self) -> Path:
        """Named and anonymous volumes; `NAME/_data` is what containers see."""
        return self.root / "volumes"

    @property
    def networks(self) -> Path:
        """User-defined networks' records."""
        return self.root / "networks"

    @property
    def containers(self) -> Path:
        """A directory a container: its record, writable layer, log and the files mounted over its /etc."""
        return self.root / "containers"

    @property
    def temporary(self) -> Path:
        """Things half made, on the file system of the whole ones; emptied when the engine starts."""
        return self.root / "tmp"

    @property
    def netns(self) -> Path:
        """Files that keep containers' network namespaces."""
        return self.run / "netns"

    @property
    def bundles(self) -> Path:
        """A directory a container that runs, or that somebody waits for to run."""
        return self.run / "containers"

    def container(self, container_id: str) -> Path:
        """What lasts of one container."""
        return self.containers / container_id

    def bundle(self, container_id: str) -> Path:
        """What one container has while it runs: OCI bundle, root file system's mount, monitor's files."""
        return self.bundles / container_id
