"""One real etcd for all contract tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from etcd_server import EtcdServer, etcd_server


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path_factory.mktemp("etcd")) as server:
        yield server
