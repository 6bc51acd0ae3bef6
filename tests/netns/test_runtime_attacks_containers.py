"""Root in a container, or in its image, against the host: each attack is made, and nothing outside may have changed.

What is tried elsewhere: system calls, devices, capabilities, cgroups, propagation, read-only binds in `test_runtime_spec.py`;
`docker cp` in `test_runtime_files.py`; layers in `test_runtime_evil_archives.py`; users in `test_spec_users.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime_attacks import attack_program, load_image, snapshot, until_empty, with_libraries
from runtime_bundle import RUNC
from runtime_docker import DockerWorld, docker_world
from runtime_images import Link

pytestmark = pytest.mark.root
QUIET = ("run", "--network", "none")
RUN = (*QUIET, "--rm")
EVIL = "evil"


@pytest.fixture(scope="module")
def runc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime that may be lost."""
    return Path(shutil.copy(RUNC, tmp_path_factory.mktemp("runc") / "runc"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, runc: Path) -> Iterator[DockerWorld]:
    with docker_world(tmp_path_factory.mktemp("d"), runc=str(runc)) as world:
        program = attack_program(tmp_path_factory.mktemp("program"))
        load_image(world, EVIL, {"attack": program, "reexec": b"#!/proc/self/exe\n", **with_libraries(runc)})
        yield world


@pytest.fixture
def world(engine: DockerWorld) -> Iterator[DockerWorld]:
    yield engine
    for container in engine.ok("ps", "-aq").split():
        engine.ok("rm", "-f", "-v", container)
    engine.ok("volume", "prune", "-a", "-f")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host's that no container has to do with."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "secret").write_text("the host's")
    (made / "passwd").write_text("root:x:0:0::/stolen:/bin/sh\n")
    return made


def far(path: Path) -> str:
    """The same from anywhere."""
    return "../" * 30 + str(path).lstrip("/")


def test_a_program_that_waits_for_the_runtime_cannot_overwrite_it(world: DockerWorld, runc: Path) -> None:
    """CVE-2019-5736."""
    before = hashlib.sha256(runc.read_bytes()).hexdigest()
    waiting = world.ok(*QUIET, "-d", EVIL, "/attack", "overwrite", "2")
    for _ in range(8):
        world.docker("exec", waiting, "/reexec")
    world.docker(*QUIET, "--rm", EVIL, "/proc/self/exe")
    assert world.ok("wait", waiting) == "0"
    said = world.ok("logs", waiting)
    assert re.search(r"held [1-9]\d*, wrote 0$", said), said
    assert hashlib.sha256(runc.read_bytes()).hexdigest() == before


def test_processes_find_nothing_of_the_engine_open(world: DockerWorld) -> None:
    """CVE-2024-21626, CVE-2016-9962."""
    look = "for each in /proc/self/fd/*; do readlink $each; done; pwd"
    started = world.ok(*QUIET, "-d", "busybox", "sh", "-c", f"{look}; sleep 100")
    world.until("3", "exec", started, "sh", "-c", "ls /proc/1/fd | wc -l")
    for said in (world.ok("logs", started), world.ok("exec", started, "sh", "-c", look)):
        lines = said.splitlines()
        assert lines[-1] == "/"
        assert all(re.fullmatch(r"/dev/null|pipe:\[\d+\]|/proc/\d+/fd", line) for line in lines[:-1]), said


@pytest.mark.parametrize("number", [6, 7, 8, 9])
def test_nothing_starts_in_a_directory_that_was_left_open(world: DockerWorld, number: int) -> None:
    """CVE-2024-21626, by name and through a link of the image's."""
    name = f"linked{number}"
    load_image(world, name, {"out": Link(f"/proc/self/fd/{number}")}, WorkingDir=f"/proc/self/fd/{number}", Cmd=["sleep", "100"])
    assert "/proc/self/fd/" in world.refused(*RUN, name, "ls")
    assert "hosts" not in world.docker(*RUN, "-w", "/out", name, "ls", "-a", "..", "../..").stdout
    running = world.ok(*QUIET, "-d", "-w", "/", name)
    assert "open file" in world.docker("exec", "-w", f"/proc/self/fd/{number}", running, "ls").stdout
    assert world.docker("exec", "-w", "/out", running, "ls").code != 0


@pytest.mark.parametrize(
    "link",
    [
        "dev",
        "dev/null",
        "dev/pts",
        "dev/shm",
        "dev/console",
        "etc",
        "etc/hosts",
        "etc/passwd",
        "proc",
        "sys",
        "run",
        "data",
        "work",
    ],
)
def test_links_of_an_image_lead_nowhere_but_inside(world: DockerWorld, outside: Path, link: str) -> None:
    """CVE-2025-31133, CVE-2025-52565, CVE-2026-41579: what the engine and its runtime make and mount, they make in the root."""
    load_image(world, "linked", {link: Link(far(outside))}, WorkingDir="/work/new")
    before = snapshot(outside)
    mounts = ("-v", "/data/volume", "--tmpfs", "/run/tmp", "--mount", "type=image,source=busybox,target=/data/image")
    ran = world.docker(*RUN, *mounts, "linked", "sh", "-c", "id; cat /secret; echo x >/data/x; echo x >/work/x; cat /etc/passwd")
    made = world.docker("create", "--name", "copied", "linked", "true")
    world.docker("cp", str(outside / "secret"), "copied:/data/secret")
    world.docker("cp", "copied:/etc/passwd", "-")
    world.docker("commit", "copied", "again")
    assert snapshot(outside) == before
    assert made.code == 0
    assert "stolen" not in ran.stdout + ran.stderr
    assert "the host's" not in ran.stdout


def test_a_fake_proc_takes_no_writes_of_the_runtimes(world: DockerWorld, outside: Path) -> None:
    """CVE-2019-16884, CVE-2019-19921, CVE-2025-52881."""
    for target in ("/proc", "/proc/self", "/proc/sys/net", "/sys/../proc/1"):
        assert "proc" in world.refused(*RUN, "-v", f"{outside}:{target}", "busybox", "true")
    assert snapshot(outside).keys() == {str(outside / name) for name in (".", "secret", "passwd")}
    said = world.ok(*RUN, "--sysctl", "net.ipv4.ip_forward=1", "busybox", "cat", "/proc/sys/net/ipv4/ip_forward")
    assert said == "1"


def test_a_volume_whose_links_move_while_others_are_started_in_it_mounts_nothing_outside(world: DockerWorld, outside: Path) -> None:
    """CVE-2021-30465."""
    world.ok(*RUN, "-v", "shared:/v", EVIL, "sh", "-c", f"mkdir -p /v/in{outside} && ln -s {far(outside)} /v/out")
    world.ok(*QUIET, "-d", "-v", "shared:/v", EVIL, "/attack", "swap", "/v/in", "/v/out")
    before = snapshot(outside)
    ends = [
        world.docker(*RUN, "-v", "shared:/v", "-v", "mine:/v/in/sub", "--tmpfs", "/v/out/tmp", EVIL, "touch", "/v/in/sub/x").code
        for _ in range(10)
    ]
    after = snapshot(outside)
    made = set(after) - set(before)
    assert all(Path(path).is_dir() and not os.listdir(path) for path in made)
    if made:  # runc, whose race it is, may be made to leave an empty directory: CVE-2024-45310
        assert runc_version(world) < (1, 1, 14)
    files = [path for path in before if Path(path).is_file()]
    assert files
    assert [after[path] for path in files] == [before[path] for path in files]
    assert set(ends) <= {0, 1, 125, 126, 127}
    mounted = world.host.call(Path("/proc/thread-self/mountinfo").read_text)
    assert str(outside) not in mounted


def runc_version(world: DockerWorld) -> tuple[int, ...]:
    told = re.match(r"(\d+)\.(\d+)\.(\d+)", world.ok("info", "--format", "{{.RuncCommit.ID}}"))
    assert told
    return tuple(map(int, told.groups()))


def test_a_second_chroot_does_not_lead_out(world: DockerWorld, outside: Path) -> None:
    assert world.ok(*RUN, EVIL, "/attack", "climb", str(outside / "secret")) == "nothing"
    assert world.ok(*RUN, "-v", f"{outside}:{outside}", EVIL, "/attack", "climb", str(outside / "secret")) == "found"


def test_what_is_mounted_nosuid_stays_so_when_it_becomes_read_only(world: DockerWorld) -> None:
    """CVE-2023-27561's neighbours: a remount forgets the flags that it is not told."""
    world.host.sh("mount --make-private -t tmpfs -o nosuid,nodev,noexec none /mnt")
    try:
        said = world.ok(*RUN, "-v", "/mnt:/bound:ro", "busybox", "sh", "-c", "grep ' /bound ' /proc/self/mountinfo")
    finally:
        world.host.sh("umount /mnt")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(said.split()[5].split(","))


def test_with_the_hosts_network_no_socket_of_the_engines_is_in_reach(world: DockerWorld) -> None:
    """CVE-2020-15257."""
    said = world.ok("run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/unix")
    assert not [line for line in said.splitlines() if line.split()[-1].startswith("@")]
    inside = world.ok("run", "--rm", "--network", "host", "busybox", "find", "/", "-xdev", "-type", "s")
    assert inside == ""


def test_a_bomb_of_processes_stops_at_its_limit_and_can_be_stopped(world: DockerWorld) -> None:
    bomb = world.ok(*QUIET, "-d", "--pids-limit", "50", EVIL, "/attack", "bomb")
    world.until("49 processes, then Resource temporarily unavailable", "logs", bomb)
    world.docker("exec", bomb, "sh", "-c", "true | true")  # whose processes count, too
    assert world.ok("stats", "--no-stream", "--format", "{{.PIDs}}", bomb) == "50"
    began = time.monotonic()
    world.ok("rm", "-f", bomb)
    assert time.monotonic() - began < 5


def test_shared_memory_and_dev_are_as_large_as_they_are_said_to_be(world: DockerWorld) -> None:
    one = "dd if=/dev/zero of=$each/x bs=1M count=200 2>&1 | grep -o 'No space.*'; du -m $each/x; rm $each/x"
    fill = f"for each in /dev/shm /dev; do {one}; done"
    said = world.ok(*RUN, "--shm-size", "8m", "busybox", "sh", "-c", fill)
    assert said.splitlines() == ["No space left on device", "8\t/dev/shm/x", "No space left on device", "64\t/dev/x"]


def test_a_container_that_never_stops_talking_fills_no_disk(world: DockerWorld) -> None:
    chatter = ("sh", "-c", "yes | head -c 8000000; head -c 30000000 /dev/zero; echo; echo y")
    name = world.ok(*QUIET, "-d", "--log-opt", "max-size=1m", "--log-opt", "max-file=2", "busybox", *chatter)
    assert world.ok("wait", name) == "0"
    log = Path(json.loads(world.ok("inspect", name))[0]["LogPath"])
    kept = [file.stat().st_size for file in log.parent.glob(f"{log.name}*")]
    assert len(kept) == 2
    assert sum(kept) < 2_500_000
    assert world.ok("logs", "--tail", "1", name) == "y"


def test_a_health_check_that_never_stops_talking_is_cut_short(world: DockerWorld) -> None:
    probe = ("--health-cmd", "yes", "--health-timeout", "300ms", "--health-interval", "100ms", "--health-retries", "1")
    name = world.ok(*QUIET, "-d", *probe, "busybox", "sleep", "100")
    world.until("unhealthy", "inspect", "--format", "{{.State.Health.Status}}", name)
    kept = json.loads(world.ok("inspect", name))[0]["State"]["Health"]["Log"]
    assert all(len(probe["Output"]) <= 4200 for probe in kept)
    world.until("0", "exec", name, "sh", "-c", "ps | grep -c '[y]es' || true")


def test_directories_deeper_than_any_path_are_measured_and_removed(world: DockerWorld) -> None:
    """Else one container keeps the engine from its disk, and at the next start from itself."""
    dug = "/attack dig / 3000 && /attack dig /volume 3000"
    world.ok(*QUIET, "-v", "dug:/volume", "--name", "digger", EVIL, "sh", "-c", dug)
    for verb in (
        ("diff", "digger"),
        ("export", "digger"),
        ("commit", "digger"),
        ("cp", "digger:/d", "-"),
        ("cp", "digger:/volume", "-"),
    ):
        world.docker(*verb)
    assert "digger" in world.ok("ps", "-a", "-s")
    assert "dug" in world.ok("system", "df", "-v")
    world.ok("container", "prune", "-f")
    world.ok("volume", "rm", "dug")
    layout = world.engine.settings.layout
    for directory in (layout.temporary, layout.containers, layout.volumes):
        until_empty(directory)


def test_a_command_longer_than_any_path_is_refused(world: DockerWorld) -> None:
    load_image(world, "talker", {}, Cmd=["x" * 300_000])
    assert "file name too long" in world.refused(*RUN, "talker").lower()


def test_the_mount_table_inside_shows_only_what_is_the_containers(world: DockerWorld, outside: Path) -> None:
    said = world.ok(*RUN, "-v", f"{outside}:/bound", "busybox", "sh", "-c", "cat /proc/self/mountinfo; ls /.. | head -50")
    table = [line.split() for line in said.splitlines() if " - " in line]
    assert table[0][4] == "/"
    assert not [line for line in table if any(field.startswith(("shared:", "master:")) for field in line)]
    assert "/.." not in [line[4] for line in table]
