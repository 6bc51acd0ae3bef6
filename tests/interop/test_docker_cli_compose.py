"""`docker compose` as its users work: services built, scaled, changed, watched, and taken down again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime_cli import PROGRAMS, Docker

pytestmark = pytest.mark.root
COMPOSE = PROGRAMS / "docker-compose"
PROJECT = """\
name: shop
services:
  web:
    build: {context: ., args: {WORD: hello}}
    environment: {GREETING: hi}
    networks: [front, back]
    ports: ["80"]
    volumes: ["data:/data", "./config:/config:ro"]
    init: true
    stop_grace_period: 0s
    healthcheck: {test: ["CMD", "wget", "-qO-", "http://localhost/"], interval: 200ms, retries: 30}
  worker:
    image: busybox
    command: sh -c "wget -qO- http://web/; exec sleep 1000"
    networks: {back: {aliases: [helper]}}
    stop_signal: SIGKILL
    depends_on: {web: {condition: service_healthy}, setup: {condition: service_completed_successfully}}
  setup:
    image: busybox
    command: sh -c "echo ready"
    network_mode: none
networks:
  front: {}
  back: {internal: true}
volumes: {data: {labels: {tier: storage}}}
"""
DOCKERFILE = """\
FROM busybox
ARG WORD
RUN mkdir /www && echo $WORD > /www/index.html
CMD ["httpd", "-f", "-p", "80", "-h", "/www"]
"""
Compose = Callable[..., str]


@pytest.fixture
def compose(docker: Docker, tmp_path: Path) -> Iterator[Compose]:
    (tmp_path / "compose.yaml").write_text(PROJECT)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "config").mkdir()
    program = (str(COMPOSE), "--file", str(tmp_path / "compose.yaml"))

    def compose(line: str, *more: str) -> str:
        return docker(line, *more, program=program)

    yield compose
    compose("down --volumes --remove-orphans --timeout 0")


def test_services_are_built_and_come_up_in_order_and_find_each_other(docker: Docker, compose: Compose) -> None:
    compose("up --detach --build --quiet-pull")
    docker.until("logs shop-worker-1", says="hello")
    rows = {row["Service"]: row for row in map(json.loads, compose("ps --all --format json").split("\n"))}
    assert (rows["web"]["Health"], rows["worker"]["State"], rows["setup"]["ExitCode"]) == ("healthy", "running", 0)
    assert compose("exec -T web sh -c", "echo $GREETING; ls -d /config /data; cat /proc/1/comm").split()[0] == "hi"
    assert compose("port web 80").startswith("0.0.0.0:")
    assert "worker-1  | hello" in compose("logs worker")
    assert compose("images --quiet web") == docker("images -q --no-trunc shop-web").removeprefix("sha256:")
    assert docker("network inspect -f", "{{.Internal}} {{len .Containers}}", "shop_back") == "true 2"
    assert docker("volume ls -qf label=tier=storage") == "shop_data"


def test_up_again_changes_only_what_has_changed(docker: Docker, compose: Compose, tmp_path: Path) -> None:
    compose("up --detach worker")
    before = {name: docker("inspect -f {{.Id}}", f"shop-{name}-1") for name in ("web", "worker")}
    compose("up --detach worker")
    (tmp_path / "compose.yaml").write_text(PROJECT.replace("GREETING: hi", "GREETING: hey"))
    compose("up --detach --no-deps web")
    assert docker("inspect -f {{.Id}} shop-worker-1") == before["worker"]
    assert docker("inspect -f {{.Id}} shop-web-1") != before["web"]
    assert compose("exec -T web sh -c", "echo $GREETING") == "hey"


def test_a_service_is_scaled_stopped_started_and_run_once(docker: Docker, compose: Compose) -> None:
    compose("up --detach --scale worker=3")
    assert len(compose("ps --quiet worker").split()) == 3
    assert "helper" in docker("inspect -f", "{{.NetworkSettings.Networks.shop_back.Aliases}}", "shop-worker-2")
    compose("up --detach --scale worker=1")
    assert compose("ps --format {{.Name}} worker") == "shop-worker-1"
    compose("stop worker")
    assert compose("ps --all --format {{.State}} worker") == "exited"
    compose("start worker")
    compose("pause worker")
    assert compose("ps --format {{.State}} worker") == "paused"
    compose("unpause worker")
    compose("kill worker")
    assert compose("run --rm --no-deps -T worker echo once") == "once"


def test_down_takes_everything_but_named_volumes_and_then_those(docker: Docker, compose: Compose) -> None:
    compose("up --detach --no-deps worker web")
    compose("down --timeout 0")
    assert docker("ps -aq") + docker("network ls -qf type=custom") == ""
    assert docker("volume ls -q") == "shop_data"
    compose("down --volumes --rmi local")
    assert docker("volume ls -q") + docker("images -q shop-web") == ""
