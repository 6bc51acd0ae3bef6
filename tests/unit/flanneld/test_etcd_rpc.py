"""etcd's messages and methods: aetcd's, without what aetcd would bring along."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.descriptor_pool import Default

from flanneld.etcd import rpc

METHODS = [value for value in vars(rpc).values() if isinstance(value, rpc.Method)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_methods_are_what_etcd_describes(method: rpc.Method) -> None:
    service, name = method.path.removeprefix("/").split("/")
    described = Default().FindServiceByName(service).methods_by_name[name]
    assert method.answer.DESCRIPTOR is described.output_type


def test_the_daemon_does_without_grpcio() -> None:
    """It would be 15 MiB and seven threads more on every host."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, flanneld.__main__; print(*sys.modules)"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "flanneld.etcd.rpc.rpc_pb2" in loaded
    assert not {"grpc", "aetcd", "rich", "click", "pyroute2"} & set(loaded)
