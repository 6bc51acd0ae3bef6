"""Which data plane is to carry packets: asked for in the network config (`DataPath`), or the best that there is."""

from __future__ import annotations

from flanneld.backend import BackendError
from flanneld.linux.carry import CarryError, built
from flanneld.log import Log, Once
from flanneld.tunnel import NATIVE, PYTHON
from flanneld.tunnel.native import NativePlane
from flanneld.tunnel.plane import Plane

said = Once(Log(__name__))
"""A change that is tried again and again is told once."""


def chosen_plane(data_path: str, method: str) -> tuple[type[Plane], dict[str, str]]:
    """The kind, and what the log is to say of it. Raises BackendError when it is asked for and cannot be."""
    if data_path == PYTHON:
        return Plane, {"path": PYTHON}
    try:
        built()
    except CarryError as error:
        if data_path == NATIVE:
            raise BackendError(f"{method}: {error}") from error
        return Plane, {"path": PYTHON, "why": str(error)}
    return NativePlane, {"path": NATIVE}
