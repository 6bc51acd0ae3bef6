"""What remains of the docker command: lists and views, states, events, clean-up, and what this engine is not."""

from __future__ import annotations

import json
import re
import time

import pytest

from runtime_cli import Docker, Served

pytestmark = pytest.mark.root
RUN = "run --network none"


def test_every_state_is_told_and_refuses_what_it_cannot(docker: Docker) -> None:
    def state() -> str:
        return docker("inspect -f {{.State.Status}} web")

    docker("create --name web --network none busybox sleep 1000")
    assert (state(), docker("ps -a --format {{.Status}}")) == ("created", "Created")
    for verb in ("pause", "kill", "exec"):
        assert "is not running" in docker.refused(f"{verb} web {'true' if verb == 'exec' else ''}")
    docker("start web")
    assert docker("start web") == "web"
    docker("pause web")
    assert (state(), docker("ps --format {{.Status}}")[-9:]) == ("paused", " (Paused)")
    assert "is already paused" in docker.refused("pause web")
    assert "cannot remove container" in docker.refused("rm web")
    docker("stop -t 0 web")
    assert state() == "exited"
    assert "is not paused" in docker.refused("unpause web")
    assert docker("stop web") == "web"
    assert docker("ps -a --format {{.Status}}").startswith("Exited (137) ")
    docker("restart -t 0 web")
    docker("kill -s KILL web")
    assert docker("wait web") == "137"
    assert docker("rm web") == "web"
    for verb in ("start", "stop", "kill", "pause", "unpause", "restart", "wait", "logs", "top", "port", "diff", "attach"):
        assert "No such container: web" in docker.refused(f"{verb} web"), verb


def test_names_change_and_ids_may_be_short(docker: Docker) -> None:
    identity = docker("create --name web busybox")
    docker(f"rename {identity[:6]} site")
    assert docker("ps -a --format {{.Names}}") == "site"
    assert "the same name as its current name" in docker.refused("rename site site")
    docker("create --name web busybox")
    assert "is already in use by container" in docker.refused("rename web site")
    assert re.search("^[a-z]+_[a-z]+$", docker("inspect -f {{.Name}}", docker("create busybox")).strip("/"))


def test_ps_filters_and_forms(docker: Docker) -> None:
    docker(f"{RUN} -d --name web -l tier=front -v data:/data busybox sleep 1000")
    docker.said(f"{RUN} --name job busybox sh -c", "exit 3")
    names = {
        "": "web",
        "-a": "job web",
        "-l": "job",
        "-a -f exited=3": "job",
        "-a -f status=exited": "job",
        "-f label=tier=front": "web",
        "-a -f name=^/jo": "job",
        "-f volume=data": "web",
        "-a -f ancestor=busybox -f since=web": "job",
        "-f network=none": "web",
        "-f publish=80": "",
    }
    assert {flags: " ".join(docker(f"ps {flags} --format", "{{.Names}}").split()) for flags in names} == names
    row = json.loads(docker("ps --no-trunc --format json"))
    assert (row["Command"], row["Image"], row["Labels"], row["Mounts"]) == ('"sleep 1000"', "busybox", "tier=front", "data")
    assert "invalid filter" in docker.refused("ps -f colour=red")


def test_inspect_finds_whatever_has_that_name(docker: Docker) -> None:
    docker("create --name web busybox")
    docker("network create mine")
    docker("volume create data")
    assert docker("inspect -f {{.Name}} web mine data").split() == ["/web", "mine", "data"]
    assert docker("inspect --type image -f", "{{.RepoTags}}", "busybox") == "[busybox:latest]"
    assert docker("inspect -s -f", "{{.SizeRootFs}}", "web").isdigit()
    assert docker.refused("inspect nothing").lower() == "error: no such object: nothing"


def test_top_and_stats_show_what_runs(docker: Docker) -> None:
    docker(f"{RUN} -d --name web busybox sh -c", "sleep 1000 & exec sleep 2000")
    docker.until("top web", says="sleep 1000")
    assert [line.split()[-1] for line in docker("top web -eo pid,args").split("\n")[1:]] == ["2000", "1000"]
    assert "PID" in docker.refused("top web -eo comm")
    assert docker("stats --no-stream --format", "{{.Name}} {{.PIDs}} {{.NetIO}}", "web") == "web 2 0B / 0B"
    with docker.beside("stats --format", "{{.Name}} {{.CPUPerc}}") as running:
        assert running.stdout is not None
        assert re.search(r"web \d", running.stdout.readline() + running.stdout.readline())


def test_events_tell_a_life_and_past_ones_are_kept(docker: Docker) -> None:
    since = f"{time.time():.9f}"
    docker("volume create data")
    docker(f"{RUN} --rm --name web -v data:/x busybox true")
    docker("tag busybox other")
    docker("rmi other")
    form = "{{.Type}} {{.Action}}"
    past = f"events --since {since} --until {time.time():.9f} --format '{form}'"
    told = docker(past).split("\n")
    lives = {kind: [line.split()[1] for line in told if line.startswith(kind)] for kind in ("container", "volume", "image")}
    assert lives == {
        "container": ["create", "attach", "start", "die", "destroy"],
        "volume": ["create", "mount", "unmount"],
        "image": ["tag", "untag"],
    }
    assert docker(f"{past} -f type=image -f event=tag") == "image tag"


def test_space_is_counted_and_pruned(docker: Docker) -> None:
    docker(f"{RUN} --name web -v data:/data busybox sh -c", "echo 12345 > /f; echo 1 > /data/g")
    rows = {row["Type"]: row for row in map(json.loads, docker("system df --format json").split("\n"))}
    assert (rows["Containers"]["Size"], rows["Local Volumes"]["Size"], rows["Images"]["Active"]) == ("6B", "2B", "1")
    assert "web" in docker("system df -v")
    docker("network create unused")
    docker("create --name new busybox")
    said = docker("system prune -f --volumes")
    assert "Deleted Networks:\nunused" in said
    assert docker("ps -a --format {{.Names}}") == ""
    docker(f"{RUN} --name old -l keep=yes busybox true")
    assert docker("container prune -f --filter label!=keep").startswith("Total reclaimed space: 0B")
    assert docker("container prune -f --filter until=1h") == "Total reclaimed space: 0B"
    assert "Deleted Containers:" in docker("container prune -f")


def test_it_says_what_it_is_and_what_it_is_not(docker: Docker) -> None:
    assert docker("version --format {{.Server.APIVersion}}") == "1.50"
    assert docker("info --format", "{{.OSType}} {{.Driver}} {{.Swarm.LocalNodeState}} {{.LiveRestoreEnabled}}") == (
        "linux overlay2 inactive true"
    )
    assert "this engine has no swarm" in docker.refused("swarm init")
    for line in ("node ls", "service ls", "secret ls", "config ls"):
        assert "This node is not a swarm manager" in docker.refused(line)
    assert docker("plugin ls -q") == ""
    assert "experimental" in docker.refused("checkpoint ls web")


def test_old_clients_speak_their_own_version(served: Served) -> None:
    for version in ("1.24", "1.40", "1.44"):
        old = Docker(served.docker.socket, {"DOCKER_API_VERSION": version})
        assert old("run --rm --network none busybox echo hi") == "hi"
        assert old("ps -a") != ""
    newer = Docker(served.docker.socket, {"DOCKER_API_VERSION": "1.99"})
    assert "client version 1.99 is too new. Maximum supported API version is 1.50" in newer.refused("ps")
