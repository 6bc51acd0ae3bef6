"""docker-py against the engine: the other client that programs have, which speaks in its own way."""

from __future__ import annotations

import gc
import io
import socket
import tarfile
import time
from collections.abc import Iterator
from typing import Any, cast

import docker  # type: ignore[import-untyped]  # docker-py has no types
import docker.errors  # type: ignore[import-untyped]
import pytest

from runtime_docker import DockerWorld, docker_world

# docker-py leaves the sockets of its streams to the garbage collector
pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerWorld]:
    with docker_world(tmp_path_factory.mktemp("d")) as world:
        yield world


@pytest.fixture
def client(engine: DockerWorld) -> Iterator[Any]:
    made = cast("Any", docker.DockerClient(base_url=f"unix://{engine.socket}", timeout=20))
    yield made
    made.close()
    gc.collect()
    engine.clean()


@pytest.fixture
def web(client: Any) -> Any:
    return client.containers.run("busybox", "sleep 100", detach=True, network_mode="none", name="web", labels={"a": "b"})


def test_a_run_gives_its_output_and_its_failure(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True, network_mode="none") == b"hi\n"
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True, network_mode="none")
    assert (failed.value.exit_status, failed.value.stderr) == (3, b"bad\n")


def test_execs_give_output_apart_and_exit_codes(web: Any) -> None:
    assert tuple(web.exec_run(["sh", "-c", "echo o; exit 3"])) == (3, b"o\n")
    assert web.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True).output == (b"o\n", b"e\n")


def test_an_execs_socket_is_talked_to_both_ways(web: Any) -> None:
    _, talk = web.exec_run("cat", stdin=True, socket=True)
    connection: socket.socket = talk._sock
    connection.sendall(b"abc")
    connection.shutdown(socket.SHUT_WR)
    said = b""
    while data := connection.recv(100):
        said += data
    talk.close()
    connection.close()
    assert said == b"\x01\0\0\0\0\0\0\x03abc"


def test_lists_and_views_are_understood(client: Any, web: Any) -> None:
    assert [found.name for found in client.containers.list(filters={"label": "a=b"})] == ["web"]
    assert web.top()["Processes"][0][-1] == "sleep 100"
    assert web.stats(stream=False)["pids_stats"]["current"] == 1
    web.reload()
    assert (web.status, web.attrs["Config"]["Cmd"], web.image.tags) == ("running", ["sleep", "100"], ["busybox:latest"])


def test_archives_go_in_and_out(web: Any) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        item = tarfile.TarInfo("f")
        item.size = 4
        archive.addfile(item, io.BytesIO(b"data"))
    assert web.put_archive("/root", buffer.getvalue())
    parts, found = web.get_archive("/root/f")
    assert (found["name"], found["size"]) == ("f", 4)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        assert archive.getnames() == ["f"]


def test_its_end_is_waited_for_and_told(client: Any, web: Any) -> None:
    since = time.time()
    web.kill()
    assert web.wait() == {"StatusCode": 137, "Error": None}
    told = client.events(since=since, until=time.time(), decode=True, filters={"container": "web"})
    assert [event["Action"] for event in told] == ["kill", "die"]


def test_what_is_not_there_is_its_not_found(client: Any) -> None:
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nope")
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nope")
    with pytest.raises(docker.errors.APIError, match="403"):
        client.networks.create("bridge", check_duplicate=True)


def test_networks_volumes_and_images_are_its_objects(client: Any) -> None:
    network, volume = client.networks.create("mine", labels={"a": "b"}), client.volumes.create("data")
    assert [found.name for found in client.networks.list(filters={"label": "a"})] == ["mine"]
    assert volume.attrs["Driver"] == "local"
    assert client.images.get("busybox").tag("mine", "1")
    assert client.images.list(name="mine")[0].tags == ["busybox:latest", "mine:1"]
    assert set(client.df()) == {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}
    network.remove()


def test_a_client_of_api_1_24_is_served(engine: DockerWorld) -> None:
    old = cast("Any", docker.DockerClient(base_url=f"unix://{engine.socket}", version="1.24"))
    assert old.ping()
    assert old.containers.run("busybox", ["echo", "hi"], network_mode="none", name="old") == b"hi\n"
    assert old.containers.get("old").wait()["StatusCode"] == 0
    old.close()
    engine.clean()
