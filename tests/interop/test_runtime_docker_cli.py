"""The docker command against the engine: what users type, what they see, what it exits with."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime_docker import DockerWorld, docker_world

pytestmark = pytest.mark.root
RUN = ("run", "--network", "none")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerWorld]:
    with docker_world(tmp_path_factory.mktemp("d")) as world:
        yield world


@pytest.fixture
def world(engine: DockerWorld) -> Iterator[DockerWorld]:
    yield engine
    engine.clean()


def test_it_says_what_it_is(world: DockerWorld) -> None:
    assert world.ok("version", "--format", "{{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}") == "1.50 1.24 linux"
    assert world.ok("info", "--format", "{{.Driver}} {{.Images}} {{.Swarm.LocalNodeState}}") == "overlay2 1 inactive"
    assert "WARNING" not in world.docker("info").stderr


def test_run_shows_both_outputs_apart_and_exits_as_the_program_does(world: DockerWorld) -> None:
    said = world.docker(*RUN, "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.code, said.stdout, said.stderr) == (7, "out\n", "err\n")
    assert world.ok("ps", "-aq") == ""


def test_run_passes_input_on_to_its_end(world: DockerWorld) -> None:
    data = os.urandom(3_000_000)
    assert world.ok(*RUN, "--rm", "-i", "busybox", "sha256sum", data=data).split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("busybox", "nope"), 127, 'exec: "nope": executable file not found in $PATH'),
        (("busybox", "/etc/passwd.d"), 127, "no such file or directory"),
        (("busybox", "/etc"), 126, "permission denied"),
        (("--pull", "never", "nope", "true"), 125, "No such image: nope:latest"),
        (("--name", "a b", "busybox", "true"), 125, "Invalid container name (a b)"),
        (("-m", "1k", "busybox", "true"), 125, "Minimum memory limit allowed is 6MB"),
        (("-v", "/nope:rel", "busybox", "true"), 125, "mount path must be absolute"),
    ],
)
def test_run_that_cannot_be_exits_as_dockers_does(world: DockerWorld, arguments: tuple[str, ...], code: int, text: str) -> None:
    said = world.docker(*RUN, *arguments)
    assert (said.code, text in said.stderr) == (code, True), said.stderr


def test_a_terminal_has_the_users_size_and_its_exit_code(world: DockerWorld) -> None:
    typed = [("# ", "stty size\n"), ("33 99", "exit 5\n")]
    assert world.at_terminal(*RUN, "--rm", "-it", "busybox", "sh", typed=typed)[0] == 5


def test_the_detach_keys_leave_the_container_running_and_attach_comes_back(world: DockerWorld) -> None:
    code, screen = world.at_terminal(
        *RUN, "-it", "--name", "web", "busybox", "sh", typed=[("# ", "echo hi\n"), ("hi\r\n", "\x10\x11")]
    )
    assert code == 0, screen
    assert world.ok("ps", "--format", "{{.Names}} {{.State}}") == "web running"
    assert world.at_terminal("attach", "web", typed=[("", "\n"), ("# ", "exit 3\n")])[0] == 3
    assert world.ok("wait", "web") == "3"


def test_exec_runs_beside_and_exits_as_its_program_does(world: DockerWorld) -> None:
    world.ok(*RUN, "-d", "--name", "web", "busybox", "sleep", "100")
    said = world.docker("exec", "-e", "A=1", "-w", "/root", "web", "sh", "-c", "echo $A $PWD; echo err >&2; exit 4")
    assert (said.code, said.stdout, said.stderr) == (4, "1 /root\n", "err\n")
    assert world.ok("exec", "-i", "web", "cat", data=b"typed") == "typed"
    world.ok("exec", "-d", "web", "touch", "/done")
    world.until("/done", "exec", "web", "ls", "/done")
    missing = world.docker("exec", "web", "nope")
    assert (missing.code, 'exec: "nope": executable file not found in $PATH' in missing.stdout) == (127, True)
    code, _ = world.at_terminal("exec", "-it", "web", "sh", typed=[("# ", "stty size\n"), ("33 99", "exit 6\n")])
    assert code == 6


def test_logs_are_told_from_their_end_with_times_and_until_the_container_ends(world: DockerWorld) -> None:
    world.ok(*RUN, "-d", "--name", "web", "busybox", "sh", "-c", "echo 1; echo 2; echo 3 >&2; sleep 0.5; echo 4")
    assert world.ok("logs", "-f", "web") == "1\n2\n4"
    assert world.ok("logs", "--tail", "1", "web") == "4"
    assert world.docker("logs", "web").stderr == "3\n"
    when, _, text = world.ok("logs", "-t", "--tail", "1", "web").partition(" ")
    assert (text, when[-1], when[:2]) == ("4", "Z", "20")
    assert world.ok("logs", "--since", when, "web") == "4"


def test_ps_filters_as_dockers_does(world: DockerWorld) -> None:
    world.ok(*RUN, "-d", "--name", "web", "--label", "tier=front", "-v", "data:/data", "--expose", "80", "busybox", "sleep", "100")
    world.docker(*RUN, "--name", "job", "busybox", "sh", "-c", "exit 3")
    names = {
        (): "web",
        ("-a",): "job web",
        ("-n1",): "job",
        ("-f", "status=exited"): "job",
        ("-a", "-f", "exited=3"): "job",
        ("-a", "-f", "exited=0"): "",
        ("-f", "label=tier=front"): "web",
        ("-a", "-f", "name=^jo"): "job",
        ("-f", "volume=data"): "web",
        ("-f", "volume=/data"): "web",
        ("-a", "-f", "before=job"): "web",
        ("-a", "-f", "since=web"): "job",
        ("-a", "-f", "ancestor=busybox"): "job web",
        ("-a", "-f", "ancestor=nope"): "",
        ("-f", "network=none"): "web",
        ("-f", "expose=80/tcp"): "web",
        ("-f", "expose=8000-8010"): "",
        ("-f", "health=none"): "web",
    }
    found = {key: " ".join(world.ok("ps", *key, "--format", "{{.Names}}").split()) for key in names}
    assert found == names
    assert "invalid filter 'status=gone'" in world.refused("ps", "-f", "status=gone")


def test_ps_shows_ports_command_and_size(world: DockerWorld) -> None:
    world.ok("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", "sh", "-c", "echo 12345 >/f; sleep 100")
    world.until("12345", "exec", "web", "cat", "/f")
    shown = world.ok("ps", "-s", "--no-trunc", "--format", "{{.Ports}}|{{.Command}}|{{.Image}}|{{.Size}}")
    assert shown.startswith("127.0.0.1:8080->80/tcp|\"sh -c 'echo 12345 >/f; sleep 100'\"|busybox|6B (virtual ")
    assert world.ok("port", "web", "80") == "127.0.0.1:8080"


def test_files_are_copied_both_ways(world: DockerWorld, tmp_path: Path) -> None:
    world.ok(*RUN, "-d", "--name", "web", "busybox", "sleep", "100")
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_text("data")
    world.ok("cp", str(tmp_path / "d"), "web:/root")
    assert world.ok("exec", "web", "cat", "/root/d/e/f") == "data"
    world.ok("cp", "web:/root/d/e", str(tmp_path / "back"))
    assert (tmp_path / "back/f").read_text() == "data"
    assert "Could not find the file /nope in container web" in world.refused("cp", "web:/nope", str(tmp_path))
    assert "A /root/d/e/f" in world.ok("diff", "web").splitlines()


def test_an_exported_container_is_imported_as_an_image(world: DockerWorld, tmp_path: Path) -> None:
    world.ok(*RUN, "--name", "web", "busybox", "sh", "-c", "echo made >/made")
    world.ok("export", "-o", str(tmp_path / "web.tar"), "web")
    with tarfile.open(tmp_path / "web.tar") as archive:
        assert "made" in archive.getnames()
    world.ok("import", "-c", 'CMD ["cat", "/made"]', str(tmp_path / "web.tar"), "flat:1")
    assert world.ok(*RUN, "--rm", "flat:1") == "made"


def test_a_committed_container_is_an_image_with_its_changes(world: DockerWorld) -> None:
    world.ok(*RUN, "--name", "web", "busybox", "sh", "-c", "echo made >/made")
    world.ok("commit", "-m", "why", "-c", 'CMD ["cat", "/made"]', "-c", "LABEL a=b", "web", "mine:1")
    assert world.ok(*RUN, "--rm", "mine:1") == "made"
    assert world.ok("image", "inspect", "mine:1", "--format", "{{.Comment}} {{.Config.Labels.a}}") == "why b"
    assert "from is not a valid change command" in world.refused("commit", "-c", "FROM x", "web")


def test_images_are_tagged_listed_and_removed_by_dockers_rules(world: DockerWorld) -> None:
    world.ok("tag", "busybox", "localhost:5000/team/box:1")
    assert world.ok("images", "-f", "reference=*/*/box", "--format", "{{.Repository}}:{{.Tag}}") == "localhost:5000/team/box:1"
    assert "image is referenced in multiple repositories" in world.refused("rmi", world.ok("images", "-q", "busybox"))
    assert world.ok("rmi", "localhost:5000/team/box:1") == "Untagged: localhost:5000/team/box:1"
    world.ok(*RUN, "--name", "web", "busybox", "true")
    assert "is using its referenced image" in world.refused("rmi", "busybox")
    assert "invalid reference format" in world.refused("tag", "busybox", "a:b:c")


def test_a_saved_image_is_loaded_again(world: DockerWorld, tmp_path: Path) -> None:
    world.ok("tag", "busybox", "mine:1")
    image = world.ok("images", "-q", "--no-trunc", "mine:1")
    world.ok("save", "-o", str(tmp_path / "mine.tar"), "mine:1")
    world.ok("rmi", "mine:1")
    assert world.ok("load", "-i", str(tmp_path / "mine.tar")) == "Loaded image: mine:1"
    assert world.ok("images", "-q", "--no-trunc", "mine:1") == image
    assert "No such image: nope" in world.refused("save", "-o", str(tmp_path / "nope.tar"), "nope")


def test_networks_and_volumes_come_and_go(world: DockerWorld) -> None:
    world.ok("network", "create", "--label", "a=b", "--subnet", "10.9.0.0/24", "mine")
    world.ok("run", "-d", "--name", "web", "--network", "mine", "--ip", "10.9.0.7", "-v", "data:/data", "busybox", "sleep", "100")
    found = json.loads(world.ok("network", "inspect", "mine"))[0]
    assert [member["Name"] + " " + member["IPv4Address"] for member in found["Containers"].values()] == ["web 10.9.0.7/24"]
    world.ok("network", "connect", "bridge", "web")
    assert " 172.17.0." in world.ok("exec", "web", "ip", "addr")
    world.ok("network", "disconnect", "bridge", "web")
    assert "has active endpoints" in world.refused("network", "rm", "mine")
    assert "volume is in use" in world.refused("volume", "rm", "data")
    assert world.ok("rm", "-f", "web") == "web"
    assert world.ok("network", "ls", "-qf", "label=a=b") != ""
    assert "mine" in world.ok("network", "prune", "-f")
    assert "data" in world.ok("volume", "prune", "-af")


def test_events_tell_a_containers_life_with_dockers_words(world: DockerWorld) -> None:
    since = str(time.time())
    world.ok(*RUN, "--rm", "--name", "web", "busybox", "true")
    told = world.ok(
        "events", "--since", since, "--until", str(time.time()), "-f", "container=web", "--format", "{{.Action}}"
    ).split("\n")
    assert told == ["create", "attach", "start", "die", "destroy"]


def test_events_are_told_while_they_happen(world: DockerWorld) -> None:
    with world.beside("events", "-f", "event=create", "--format", "{{.Actor.Attributes.name}}") as events:
        assert events.stdout is not None
        time.sleep(0.3)
        world.ok("create", "--name", "web", "busybox")
        assert events.stdout.readline() == "web\n"


def test_a_stopped_paused_renamed_and_updated_container_says_so(world: DockerWorld) -> None:
    world.ok(*RUN, "-d", "--name", "one", "busybox", "sleep", "100")
    world.ok("rename", "one", "two")
    world.ok("pause", "two")
    assert "(Paused)" in world.ok("ps", "--format", "{{.Status}}")
    assert "is paused" in world.refused("exec", "two", "true")
    world.ok("unpause", "two")
    world.ok("update", "--pids-limit", "50", "--restart", "on-failure:3", "two")
    assert world.ok("inspect", "two", "--format", "{{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}") == "50 on-failure"
    assert "container is running" in world.refused("rm", "two")
    world.ok("stop", "-t", "0", "two")
    assert world.ok("ps", "-a", "--format", "{{.Status}}").startswith("Exited (137) ")
    assert "is not running" in world.refused("kill", "two")
    world.ok("start", "two")
    world.ok("restart", "-t", "0", "two")
    assert world.ok("rm", "-f", "two") == "two"


def test_top_and_stats_show_what_runs(world: DockerWorld) -> None:
    world.ok(*RUN, "-d", "--name", "web", "busybox", "sleep", "100")
    assert "sleep 100" in world.ok("top", "web")
    assert world.ok("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}") == "web 1"


def test_what_is_not_there_is_asked_for_everywhere_and_not_found(world: DockerWorld) -> None:
    assert world.refused("inspect", "nope").lower() == "error: no such object: nope"
    assert world.refused("rm", "nope") == "Error response from daemon: No such container: nope"
    assert world.refused("network", "inspect", "nope") == "Error response from daemon: network nope not found"
    assert world.refused("volume", "inspect", "nope") == "Error response from daemon: get nope: no such volume"
    assert "this engine has no swarm" in world.refused("swarm", "init")
    assert "This node is not a swarm manager" in world.refused("service", "ls")


def test_df_and_system_prune_count_and_clear(world: DockerWorld) -> None:
    world.ok(*RUN, "--name", "web", "-v", "data:/data", "busybox", "sh", "-c", "echo 12345 >/f; echo 1 >/data/g")
    rows = [json.loads(line) for line in world.ok("system", "df", "--format", "json").splitlines()]
    assert {row["Type"]: (row["TotalCount"], row["Active"]) for row in rows} == {
        "Images": ("1", "1"),
        "Containers": ("1", "0"),
        "Local Volumes": ("1", "1"),
        "Build Cache": ("0", "0"),
    }
    assert next(row["Size"] for row in rows if row["Type"] == "Containers") == "6B"
    assert "Total reclaimed space: 6B" in world.ok("system", "prune", "-f")


def test_a_client_that_is_killed_leaves_its_container_and_nothing_else(world: DockerWorld) -> None:
    world.ok(*RUN, "-d", "--name", "web", "busybox", "sleep", "100")
    before = len(os.listdir("/proc/self/fd"))
    for arguments in (("logs", "-f", "web"), ("attach", "web"), ("wait", "web"), ("stats", "web"), ("events",)):
        with world.beside(*arguments):
            time.sleep(0.2)
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert world.ok("ps", "--format", "{{.Names}}") == "web"


def test_a_build_without_buildkit_runs_and_one_with_it_is_told_what_to_do(world: DockerWorld, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nARG V=1\nENV A=$V\nRUN echo $A >/out\nCMD ["cat", "/out"]\n')
    said = world.ok("build", "-t", "mine:1", "--build-arg", "V=7", str(tmp_path), DOCKER_BUILDKIT="0")
    assert "Step 4/5 : RUN echo $A >/out" in said
    assert "Successfully tagged mine:1" in said
    assert world.ok(*RUN, "--rm", "mine:1") == "7"
    assert " ---> Using cache" in world.ok("build", "--build-arg", "V=7", str(tmp_path), DOCKER_BUILDKIT="0")
    failed = world.docker("build", "-", data=b"FROM busybox\nRUN exit 3\n", DOCKER_BUILDKIT="0")
    assert (failed.code, "returned a non-zero code: 3" in failed.stderr) == (3, True)


def test_a_tar_that_is_none_is_refused_in_words(world: DockerWorld) -> None:
    world.ok("create", "--name", "web", "busybox")
    assert "Error response from daemon" in world.refused("import", "-", "x:1", data=b"no tar at all" * 100)
    assert "Error response from daemon" in world.refused("cp", "-", "web:/root", data=b"no tar" * 1000)
