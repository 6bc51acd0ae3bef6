"""What lists and inspect say: keys and types as Docker's clients expect them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from runtime.config import ContainerConfig, CreateRequest, EndpointSettings, Healthcheck, HostConfig, Mount, PortBinding, decode
from runtime.containers.record import Health, Life, MountPoint, Record, State
from runtime.docker_api.container_list import port_rows
from runtime.docker_api.container_view import network_settings_json, state_json
from runtime.docker_api.durations import duration_text, status_text
from runtime.docker_api.progress import progress_line
from runtime.docker_api.rendering import config_json, endpoint_json, host_json, image_config_json, mounts_json
from runtime.images.progress import Progress

RUNNING = Life(state=State.RUNNING, pid=7, started_at="1970-01-01T00:00:10Z")


def record(**fields: object) -> Record:
    given = {
        "id": "a" * 64,
        "name": "web",
        "created": "2024-01-01T00:00:00Z",
        "image_id": "sha256:" + "b" * 64,
        "config": ContainerConfig(),
        "host": HostConfig(),
        "life": RUNNING,
    }
    return Record(**{**given, **fields})  # type: ignore[arg-type]  # a test's own fields


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 24 * 3600, "2 weeks"),
        (60 * 24 * 3600, "2 months"),
        (730 * 24 * 3600, "2 years"),
    ],
)
def test_a_time_span_has_one_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("life", "text"),
    [
        (Life(), "Created"),
        (RUNNING, "Up 3 seconds"),
        (Life(state=State.RUNNING, started_at=RUNNING.started_at, health=Health(status="healthy")), "Up 3 seconds (healthy)"),
        (
            Life(state=State.RUNNING, started_at=RUNNING.started_at, health=Health(status="starting")),
            "Up 3 seconds (health: starting)",
        ),
        (Life(state=State.RUNNING, started_at=RUNNING.started_at, health=Health()), "Up 3 seconds"),
        (Life(state=State.PAUSED, started_at=RUNNING.started_at), "Up 3 seconds (Paused)"),
        (Life(state=State.RESTARTING, exit_code=1, finished_at="1970-01-01T00:00:11Z"), "Restarting (1) 2 seconds ago"),
        (Life(state=State.EXITED, exit_code=137, finished_at="1970-01-01T00:00:12Z"), "Exited (137) 1 second ago"),
        (Life(state=State.DEAD), "Dead"),
        (Life(state=State.REMOVING), "Removal In Progress"),
    ],
)
def test_a_status_is_dockers_words(life: Life, text: str) -> None:
    assert status_text(life, 13_000_000_000) == text


def test_state_has_one_word_and_the_older_truth_values() -> None:
    paused = state_json(Life(state=State.PAUSED, pid=7))
    assert (paused["Status"], paused["Running"], paused["Paused"], paused["Pid"]) == ("paused", True, True, 7)
    assert "Health" not in paused
    assert state_json(Life(health=Health(status="healthy")))["Health"] == {"Status": "healthy", "FailingStreak": 0, "Log": ()}


def test_a_config_leaves_out_and_nulls_what_docker_does() -> None:
    document = config_json(ContainerConfig(cmd=("sh",), healthcheck=Healthcheck(test=("NONE",))))
    assert document["Cmd"] == ("sh",)
    assert document["Healthcheck"] == {"Test": ("NONE",)}
    assert document["Entrypoint"] is None
    assert document["Volumes"] is None
    assert document["Env"] is None
    assert not {"StopTimeout", "StopSignal", "Shell", "ExposedPorts", "MacAddress"} & document.keys()


def test_an_images_config_says_only_what_it_says() -> None:
    assert image_config_json(ContainerConfig(env=("A=1",), hostname="x", tty=True)) == {"Env": ("A=1",)}


def test_a_host_config_has_its_odd_spellings_and_windows_fields() -> None:
    document = host_json(HostConfig(mounts=(Mount(type="bind", source="/a", target="/b"),), pids_limit=0))
    assert document["Mounts"] == [{"Type": "bind", "Source": "/a", "Target": "/b"}]
    assert document["Binds"] is None
    assert {"ContainerIDFile", "UTSMode", "BlkioDeviceReadIOps", "CpuCount", "IOMaximumIOps"} <= document.keys()
    assert not {"Init", "Tmpfs", "Sysctls"} & document.keys()
    assert document["PortBindings"] == {}


def test_what_inspect_gives_can_be_created_again() -> None:
    host = HostConfig(binds=("/a:/b",), memory=1 << 20, port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    body = msgspec.json.encode({**config_json(ContainerConfig(cmd=("sh",))), "HostConfig": host_json(host)})
    again = decode(body, CreateRequest).host_config
    assert msgspec.structs.replace(again, masked_paths=None, readonly_paths=None) == host


def test_a_port_is_a_row_for_each_place_it_is_reached_at_and_one_when_nowhere() -> None:
    published = (PortBinding(host_ip="0.0.0.0", host_port="8080"), PortBinding(host_ip="::", host_port="8080"))  # noqa: S104
    given = record(config=ContainerConfig(exposed_ports={"53/udp": {}, "80/tcp": {}}), ports={"80/tcp": published})
    assert port_rows(given) == [
        {"PrivatePort": 53, "Type": "udp"},
        {"IP": "0.0.0.0", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},  # noqa: S104
        {"IP": "::", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
    ]
    assert port_rows(record(config=given.config, ports=given.ports, life=Life())) == []


def test_the_default_bridges_addresses_stand_at_the_top_as_well() -> None:
    endpoint = EndpointSettings(ip_address="172.17.0.2", ip_prefix_len=16, gateway="172.17.0.1")
    settings = network_settings_json(record(endpoints={"bridge": endpoint}), Path("/run/netns/x"))
    assert (settings["IPAddress"], settings["IPPrefixLen"], settings["Gateway"]) == ("172.17.0.2", 16, "172.17.0.1")
    assert settings["SandboxKey"] == "/run/netns/x"
    other = network_settings_json(record(endpoints={"mine": endpoint}, life=Life()), Path("/run/netns/x"))
    assert other["SandboxKey"] == ""
    assert (other["IPAddress"], other["IPPrefixLen"], other["Networks"]["mine"]["IPAddress"]) == ("", 0, "172.17.0.2")


def test_an_endpoint_has_null_for_what_was_not_asked() -> None:
    document = endpoint_json(EndpointSettings())
    assert [document[key] for key in ("IPAMConfig", "Links", "Aliases", "DriverOpts", "DNSNames")] == [None] * 5


def test_mounts_are_shown_but_not_those_of_tmpfs_flags() -> None:
    volume = MountPoint(type="volume", name="data", driver="local", source="/v", target="/data", mode="z")
    flags = MountPoint(type="tmpfs", target="/run")
    shown = mounts_json(record(mounts=(volume, flags), host=HostConfig(tmpfs={"/run": ""})))
    assert shown == [
        {
            "Type": "volume",
            "Name": "data",
            "Source": "/v",
            "Destination": "/data",
            "Driver": "local",
            "Mode": "z",
            "RW": True,
            "Propagation": "",
        }
    ]


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (Progress(status="Pulling fs layer", id="abc"), {"status": "Pulling fs layer", "id": "abc", "progressDetail": {}}),
        (
            Progress(status="Downloading", id="abc", current=1, total=2),
            {"status": "Downloading", "id": "abc", "progressDetail": {"current": 1, "total": 2}},
        ),
        (Progress(stream="Step 1/1\n"), {"stream": "Step 1/1\n"}),
        (Progress(aux={"ID": "sha256:1"}), {"aux": {"ID": "sha256:1"}}),
        (Progress(error="no", code=3), {"errorDetail": {"code": 3, "message": "no"}, "error": "no"}),
    ],
)
def test_a_step_of_progress_is_a_line(step: Progress, line: dict[str, object]) -> None:
    assert progress_line(step) == line
