"""Which data plane is taken, and what is said when a better one cannot be."""

from __future__ import annotations

import pytest

from flanneld.backend import BackendError
from flanneld.linux.carry import CarryError
from flanneld.tunnel import AUTO, NATIVE, PYTHON, choice
from flanneld.tunnel.native import NativePlane
from flanneld.tunnel.plane import Plane


def no_compiler() -> None:
    raise CarryError("there is no C compiler")


def test_python_is_python_wherever_it_is() -> None:
    assert choice.chosen_plane(PYTHON, "udp") == (Plane, {"path": "tun"})


def test_the_best_is_native_where_it_can_be_built() -> None:
    for asked in (AUTO, NATIVE):
        assert choice.chosen_plane(asked, "udp") == (NativePlane, {"path": "native"})


def test_without_a_compiler_the_best_is_python_and_native_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "built", no_compiler)
    assert choice.chosen_plane(AUTO, "udp") == (Plane, {"path": "tun", "why": "there is no C compiler"})
    with pytest.raises(BackendError, match="udp: there is no C compiler"):
        choice.chosen_plane(NATIVE, "udp")
