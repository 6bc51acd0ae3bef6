"""The engine that tests of the docker client share: one a module, emptied after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime_cli import Docker, Served, served_engine


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with served_engine() as served:
        yield served


@pytest.fixture
def docker(served: Served) -> Iterator[Docker]:
    yield served.docker
    served.clear()
