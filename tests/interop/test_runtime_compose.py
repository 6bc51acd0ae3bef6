"""`docker compose` against the engine: services that find each other by name and wait for each other's health."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime_docker import DockerWorld, docker_world

pytestmark = pytest.mark.root
COMPOSE = Path(sys.executable).parent / "docker-compose"
PROJECT = """
services:
  web:
    image: busybox
    init: false
    command: sh -c "echo hello >/data/index.html; exec httpd -f -h /data -p 80"
    ports: ["8090:80"]
    volumes: ["data:/data"]
    stop_signal: SIGKILL
    healthcheck: {test: ["CMD", "wget", "-qO-", "http://localhost/"], interval: 100ms, timeout: 2s, retries: 20}
  client:
    image: busybox
    command: sh -c "wget -qO- http://web/; exec sleep 100"
    stop_signal: SIGKILL
    depends_on: {web: {condition: service_healthy}}
volumes: {data: {}}
"""


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerWorld]:
    with docker_world(tmp_path_factory.mktemp("d")) as world:
        yield world


def test_a_project_comes_up_in_order_and_goes_without_a_trace(world: DockerWorld, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(PROJECT)

    def compose(*arguments: str) -> str:
        command = [str(COMPOSE), "--project-name", "p", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=world.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    compose("up", "--detach")
    world.until("hello", "logs", "p-client-1")
    assert "(healthy)" in compose("ps")
    assert "8090->80/tcp" in compose("ps")
    assert compose("exec", "-T", "web", "echo", "inside") == "inside\n"
    compose("down", "--volumes")
    assert world.ok("ps", "-aq") + world.ok("volume", "ls", "-q") + world.ok("network", "ls", "-qf", "type=custom") == ""
