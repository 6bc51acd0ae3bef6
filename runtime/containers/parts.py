"""What containers are made with: the other parts of the engine, handed over once; must not know what is done with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.events import Events
    from runtime.images.layers import Layers
    from runtime.images.store import Images
    from runtime.layout import Layout
    from runtime.linux.oci import Runc
    from runtime.networks.store import Networks
    from runtime.settings import Settings
    from runtime.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Parts:
    """One engine's."""

    layout: Layout
    images: Images
    layers: Layers
    networks: Networks
    volumes: Volumes
    events: Events
    runc: Runc
    settings: Settings
