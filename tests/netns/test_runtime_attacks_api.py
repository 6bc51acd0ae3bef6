"""Requests that no client sends: whatever comes in, the engine says what is wrong with it, and goes on.

What is tried elsewhere: what is no HTTP in `test_api_connection.py`, the socket's mode in `test_api_socket.py`, registries that
lie in `test_runtime_registry.py`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runtime_attacks import Api
from runtime_docker import DockerWorld, docker_world

pytestmark = pytest.mark.root

NAMES = (
    *("..", "../../etc", "%2e%2e%2f%2e%2e", "a/../../b", "..%5c", "//", "/", "a%00b", "busybox%00", "a%0ab", "%ff", "%c3%a9", "%"),
    *(
        "%zz",
        "%20",
        "-x",
        "-",
        ":",
        "@",
        "*",
        "x" * 5000,
        "0" * 64,
        "sha256:" + "0" * 64,
        "a@sha256:..",
        "a:" + "b" * 200,
        "http://x",
    ),
)
ROUTES = (
    *(("GET", f"/containers/{{}}/{verb}") for verb in ("json", "logs?stdout=1", "top", "changes", "export", "archive?path=/")),
    *(("POST", f"/containers/{{}}/{verb}") for verb in ("start", "stop", "kill", "wait", "rename?name=x1", "attach")),
    *(("POST", f"/containers/victim/{verb}={{}}") for verb in ("rename?name", "kill?signal", "stop?t", "wait?condition")),
    *(("GET", f"/containers/victim/{what}={{}}") for what in ("archive?path", "logs?stdout=1&tail", "logs?stdout=1&since")),
    ("PUT", "/containers/victim/archive?path={}"),
    ("POST", "/containers/create?name={}"),
    ("DELETE", "/containers/{}"),
    ("GET", "/exec/{}/json"),
    *(("GET", f"/images/{{}}/{verb}") for verb in ("json", "history", "get")),
    *(
        ("POST", f"/images/{verb}")
        for verb in ("{}/tag?repo=a", "busybox/tag?repo={}", "busybox/tag?repo=a&tag={}", "load?quiet={}")
    ),
    ("POST", "/images/create?fromSrc=-&repo={}"),
    ("DELETE", "/images/{}"),
    *((method, f"/{kind}/{{}}") for kind in ("volumes", "networks") for method in ("GET", "DELETE")),
    *(("GET", f"/{kind}?filters={{}}") for kind in ("containers/json", "images/json", "volumes", "networks")),
    *(("POST", f"/build?{what}={{}}") for what in ("t", "dockerfile", "buildargs", "memory", "target")),
    ("GET", "/events?until={}"),
    ("GET", "/v{}/_ping"),
    ("GET", "/{}"),
)
HUGE = "x" * 70_000
VALUES: tuple[Any, ...] = (
    *(
        True,
        -1,
        2**63,
        -(2**70),
        1e300,
        "a\0b",
        "a\nb",
        "../../x",
        "/../../x",
        "/proc/self/fd/7",
        "\u202e",
        HUGE,
        ":",
        "container:",
    ),
    *([["a\0b"], ["../x"], ["a\nb=c"], [HUGE], [[]], [{"a": 1}]]),
    *({"a\0": "b\n"}, {"": ""}, {"../x": {}}, {"a": {"b": 1}}),
)
CONFIG = (
    "Hostname User ExposedPorts Env Cmd Healthcheck Image Volumes WorkingDir Entrypoint MacAddress Labels StopSignal StopTimeout"
)
HOST = (
    "Binds LogConfig NetworkMode PortBindings RestartPolicy VolumeDriver VolumesFrom ConsoleSize Annotations CapAdd CgroupnsMode "
    "Dns ExtraHosts GroupAdd IpcMode OomScoreAdj PidMode SecurityOpt Tmpfs UTSMode UsernsMode ShmSize Sysctls Runtime Memory "
    "NanoCpus BlkioWeightDevice CpusetCpus Devices DeviceCgroupRules PidsLimit Ulimits MaskedPaths Mounts"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerWorld]:
    with docker_world(tmp_path_factory.mktemp("d")) as made:
        yield made


@pytest.fixture
def api(world: DockerWorld) -> Iterator[Api]:
    api = Api(world.socket)
    yield api
    assert api.is_well()
    world.clean()


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_anywhere(world: DockerWorld, api: Api, name: str) -> None:
    world.ok("create", "--network", "none", "--name", "victim", "busybox", "true")
    before = sorted(os.listdir(world.engine.settings.layout.root))
    answers = {route: api.ask(method, route.format(name), b"" if method in ("POST", "PUT") else None) for method, route in ROUTES}
    assert {route: said for route, said in answers.items() if said[0] >= 500} == {}
    assert sorted(os.listdir(world.engine.settings.layout.root)) == before
    assert sorted(os.listdir(world.socket.parent)) == ["root", "s"]


def container(api: Api, body: dict[str, Any]) -> tuple[int, bytes]:
    """Make a container, look at it, start and remove it: the worst answer."""
    status, said = api.ask("POST", "/containers/create", body)
    if status != 201:
        return status, said
    name = json.loads(said)["Id"]
    asked = [api.ask("GET", f"/containers/{name}/json"), api.ask("POST", f"/containers/{name}/start")]
    assert api.ask("DELETE", f"/containers/{name}?force=1&v=1")[0] in (204, 404)
    return max(asked)


@pytest.mark.parametrize("key", [*CONFIG.split(), *(f"HostConfig.{key}" for key in HOST.split())])
def test_no_setting_is_taken_that_makes_no_sense(api: Api, key: str) -> None:
    worst = {}
    for value in VALUES:
        host, _, name = key.rpartition(".")
        plain: dict[str, Any] = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
        (plain["HostConfig"] if host else plain)[name] = value
        worst[repr(value)[:50]] = container(api, plain)
    assert {value: said for value, said in worst.items() if said[0] >= 500} == {}


@pytest.mark.parametrize(
    ("target", "key"),
    [
        *(("/containers/victim/exec", key) for key in ("Cmd", "Env", "User", "WorkingDir", "DetachKeys", "ConsoleSize")),
        *(("/networks/create", key) for key in ("Name", "Driver", "IPAM", "Options", "Labels")),
        *(("/volumes/create", key) for key in ("Name", "Driver", "DriverOpts", "Labels")),
        *(("/networks/none/connect", key) for key in ("Container", "EndpointConfig")),
        *(("/commit?container=victim", key) for key in ("Env", "Cmd", "Labels", "Healthcheck", "Volumes", "ExposedPorts")),
    ],
)
def test_no_body_is_taken_that_makes_no_sense(world: DockerWorld, api: Api, target: str, key: str) -> None:
    world.ok("run", "-d", "--network", "none", "--name", "victim", "busybox", "sleep", "100")
    plain = {"Name": "made", "Cmd": ["true"], "Container": "victim", "EndpointConfig": {}}
    worst = {repr(value)[:50]: api.ask("POST", target, plain | {key: value}) for value in VALUES}
    assert {value: said for value, said in worst.items() if said[0] >= 500} == {}


@pytest.mark.parametrize("path", ["..", "../../x", "/tartan/../..", "a/./b", "a\0b", "a\nb", "a b", "x" * 256, "\u202e"])
def test_no_control_group_is_elsewhere(api: Api, path: str) -> None:
    status, said = api.ask("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"CgroupParent": path}})
    assert (status, b"invalid cgroup-parent" in said) == (400, True)


def test_what_is_no_json_or_too_much_of_it_is_refused(api: Api) -> None:
    bodies = [b"{" * 100_000, b"[" * 3_000_000, b'{"Image":', b"\xff\xfe", b'{"Image":"\\ud800"}', b"null", b"[]", b"1e999", b'"x"']
    bodies += [b'{"Labels":{"a":"' + b"x" * 10_000_000 + b'"}}', b'{"Cmd":[' + b'"a",' * 1_500_000 + b'"a"]}']
    began = time.monotonic()
    assert {api.ask("POST", "/containers/create", body)[0] for body in bodies} == {400}
    assert time.monotonic() - began < 10
    plain = {"Image": "busybox"}
    assert api.ask("POST", "/containers/create", json.dumps(plain).encode(), "text/plain")[0] == 400
    assert api.ask("POST", "/containers/create", json.dumps(plain).encode(), "application/x-www-form-urlencoded")[0] == 400


def test_heads_and_chunks_without_end_are_cut_off(api: Api) -> None:
    head = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    assert b" 431 " in api.raw(head + b"A: " + b"x" * (1 << 20))
    assert b" 431 " in api.raw(head + b"".join(b"A%d: x\r\n" % number for number in range(100_000)))
    assert b" 400 " in api.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\n{}\r\n" + b"f" * 25 + b"\r\n")
    assert b" 400 " in api.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b"x" * (1 << 20) + b"\r\n") * 6)
    assert b" 400 " in api.raw(head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert b" 400 " in api.raw(head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345")
    assert b" 400 " in api.raw(b"GET /" + b"../" * 1000 + b"_ping\0 HTTP/1.1\r\nHost: x\r\n\r\n")


def test_clients_that_say_nothing_hold_nobody_up(world: DockerWorld, api: Api) -> None:
    held = []
    try:
        for _ in range(300):
            client = socket.socket(socket.AF_UNIX)
            held.append(client)
            client.connect(str(world.socket))
            client.sendall(b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        began = time.monotonic()
        assert api.is_well()
        assert time.monotonic() - began < 2
    finally:
        for client in held:
            client.close()


def test_a_thousand_labels_of_a_kilobyte_are_kept_and_shown(api: Api) -> None:
    labels = {f"label{number}": "x" * 1000 for number in range(1000)}
    status, said = api.ask(
        "POST", "/containers/create", {"Image": "busybox", "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
    )
    assert status == 201
    shown = json.loads(api.ask("GET", f"/containers/{json.loads(said)['Id']}/json")[1])
    assert shown["Config"]["Labels"] == labels
