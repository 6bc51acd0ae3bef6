"""The documents of `runtime/containers/spec.py`, executed by the real runc: what its processes find is what Docker's find."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.config import Device, Ulimit
from runtime.containers.process import process_spec
from runtime.containers.record import MountPoint
from runtime.errors import InvalidParameter
from runtime.linux.clamp import held
from runtime.linux.controllers import controllers
from runtime.monitor.build import built_monitor
from runtime_bundle import Bundles, RunFailed, a_record

DOCKERS_MASK = "00000000a80425fb"
CALLS = "getpid keyctl bpf mount newuser newuser-clone clone3 personality vsock i386-getpid i386-keyctl x32-getpid"
SOURCE = Path(__file__).parents[1] / "system_calls.c"


@dataclass(frozen=True)
class Exec:
    """As the API's ExecConfig."""

    cmd: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    tty: bool = False
    privileged: bool = False
    working_dir: str = ""


@pytest.fixture
def bundles(tmp_path: Path) -> Iterator[Bundles]:
    made = Bundles(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def system_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("calls") / "calls"
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-o", program, SOURCE], check=True)
    return program


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def test_a_plain_container_has_dockers_rights_and_no_more(bundles: Bundles) -> None:
    said = bundles.run(a_record(None, None, *shell("grep -E '^(Cap|Seccomp:|NoNew|Groups)' /proc/self/status")))
    found = dict(line.split(":\t") for line in said.splitlines())
    assert {found["CapPrm"], found["CapEff"], found["CapBnd"]} == {DOCKERS_MASK}
    assert {found["CapInh"], found["CapAmb"]} == {"0" * 16}
    assert (found["Seccomp"], found["NoNewPrivs"], found["Groups"].strip()) == ("2", "0", "0")


def test_who_is_not_root_has_no_capability_in_effect(bundles: Bundles) -> None:
    record = a_record({"user": "ann"}, {"security_opt": ("no-new-privileges",)}, *shell("id; env; cat /proc/self/status"))
    said = bundles.run(record)
    assert "uid=1000(ann) gid=1001(ann) groups=44(video),50(staff),1001(ann)\n" in said  # the kernel sorts them
    assert "HOME=/home/ann\n" in said
    assert f"CapEff:\t{'0' * 16}" in said
    assert f"CapPrm:\t{'0' * 16}" in said
    assert f"CapBnd:\t{DOCKERS_MASK}" in said
    assert "NoNewPrivs:\t1" in said


def test_a_process_has_its_three_streams_and_nothing_else_open(bundles: Bundles) -> None:
    pid = bundles.start(a_record(None, None, "/bin/sleep", "60"))
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_what_tells_of_the_host_is_hidden_and_what_sets_it_is_read_only(bundles: Bundles) -> None:
    script = (
        "head -c 9 /proc/keys /proc/timer_list; ls /sys/firmware; echo b > /proc/sysrq-trigger; echo x > /proc/sys/kernel/hostname"
    )
    said = bundles.run(a_record(None, None, *shell(f"{script}; mount | grep '/sys ' ; true")))
    assert said.count("Read-only file system") + said.count("nonexistent directory") == 2
    assert re.search(r"sysfs on /sys type sysfs \(ro,", said)
    assert not re.search("[0-9a-f]{8}|Timer", said)


def test_a_readonly_root_takes_no_file_but_dev_shm_and_tmpfs_do(bundles: Bundles) -> None:
    host = {"readonly_rootfs": True, "tmpfs": {"/work": "size=1m,exec"}}
    said = bundles.run(a_record(None, host, *shell("touch /x; touch /dev/shm/y /work/z && echo fine; mount | grep /work")))
    assert "touch: /x: Read-only file system" in said
    assert "fine" in said
    assert "size=1024k" in said
    assert "noexec" not in said.split("on /work")[1]


def test_system_calls_that_leave_a_container_are_refused_in_every_abi(bundles: Bundles, system_calls: Path) -> None:
    where = (MountPoint(type="bind", source=str(system_calls), target="/calls", writable=False),)
    said = dict(
        line.split(" ", 1) for line in bundles.run(a_record(None, None, "/calls", *CALLS.split()), mounts=where).splitlines()
    )
    assert said["getpid"] == "done"
    refused = ("keyctl", "bpf", "mount", "newuser", "newuser-clone", "personality", "vsock")
    assert {said[name] for name in refused} == {"EPERM"}
    assert said["clone3"] == "ENOSYS"
    if os.uname().machine == "x86_64":
        assert said["i386-getpid"] in ("done", "ENOSYS")
        assert said["i386-keyctl"] in ("EPERM", "ENOSYS")
        assert said["x32-getpid"] == "killed 31"


def test_unconfined_and_privileged_are_not_filtered(bundles: Bundles, system_calls: Path) -> None:
    where = (MountPoint(type="bind", source=str(system_calls), target="/calls", writable=False),)
    for host in ({"security_opt": ("seccomp=unconfined",)}, {"privileged": True}):
        assert bundles.run(a_record(None, host, "/calls", "keyctl", "clone3"), mounts=where) == "keyctl done\nclone3 done\n"


def test_a_privileged_container_has_all_that_the_engine_has(bundles: Bundles) -> None:
    script = "cat /proc/self/status; ls /dev; mount | grep '/sys '; test -w /proc/sys/kernel/core_pattern && echo writable"
    said = bundles.run(a_record(None, {"privileged": True}, *shell(script)))
    mask = re.search("CapEff:\t(.*)", said)
    assert mask
    assert mask[1] == next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "CapBnd" in line)
    assert re.search(r"sysfs \(rw,", said)
    assert "writable" in said
    assert "kmsg" in said


def test_limits_are_in_force(bundles: Bundles) -> None:
    host = {
        "memory": 64 << 20,
        "nano_cpus": 500_000_000,
        "pids_limit": 50,
        "cpuset_cpus": "0",
        "ulimits": (Ulimit(name="nofile", soft=100, hard=200), Ulimit(name="core", soft=0, hard=0)),
        "oom_score_adj": 300,
    }
    files = "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max cpuset/cpuset.cpus"
    if not Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists():
        pytest.skip("no cgroup v1 memory controller with swap here")
    record = a_record(None, host, *shell("grep open /proc/self/limits; cat /proc/self/oom_score_adj; sleep 60"))
    pid = bundles.start(record)
    groups = dict(line.split(":")[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    values = [
        (Path("/sys/fs/cgroup") / name.split("/")[0] / groups[name.split("/")[0]][1:] / name.split("/")[1])
        for name in files.split()
    ]
    assert [path.read_text().strip() for path in values] == [str(64 << 20), str(128 << 20), "50000", "50", "0"]
    assert re.search(r"Max open files +100 +200", Path(f"/proc/{pid}/limits").read_text())
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "300\n"


def test_what_the_engine_cannot_give_is_cut_instead_of_failing(bundles: Bundles) -> None:
    host = {"ulimits": (Ulimit(name="nofile", soft=1 << 29, hard=1 << 29),), "cap_add": ("SYS_RESOURCE",), "oom_score_adj": -900}
    said = bundles.run(a_record(None, host, *shell("grep open /proc/self/limits; cat /proc/self/oom_score_adj")))
    hard = held().limit("nofile", 1 << 29)
    assert re.search(rf"Max open files +{hard} +{hard}", said)
    assert said.endswith(f"{max(-900, held().oom_score_floor)}\n")


@pytest.mark.parametrize(
    ("host", "shared"),
    [
        ({}, {"user", "cgroup"}),
        ({"pid_mode": "host"}, {"user", "cgroup", "pid"}),
        ({"ipc_mode": "host", "uts_mode": "host"}, {"user", "cgroup", "ipc", "uts"}),
        ({"cgroupns_mode": "private"}, {"user"}),
    ],
)
def test_only_those_namespaces_are_shared_that_were_asked_for(bundles: Bundles, host: dict[str, str], shared: set[str]) -> None:
    pid = bundles.start(a_record(None, host, "/bin/sleep", "60"))
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    ours = {kind for kind in kinds if os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")}
    assert ours == (shared - {"cgroup"} if controllers().version == 2 else shared), "with version 2 it is private by default"


def test_a_container_joins_anothers_namespaces(bundles: Bundles) -> None:
    first = a_record(None, None, "/bin/sleep", "60")
    pid = bundles.start(first)
    who = f"container:{first.id}"
    second = bundles.start(a_record(None, {"pid_mode": who, "ipc_mode": who, "uts_mode": who}, "/bin/sleep", "60"))
    same = {kind for kind in ("ipc", "pid", "uts", "net", "mnt") if _namespace(pid, kind) == _namespace(second, kind)}
    assert same == {"ipc", "pid", "uts"}


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_a_device_is_there_and_may_be_used_and_others_may_not(bundles: Bundles) -> None:
    device = Device(path_on_host="/dev/loop-control", path_in_container="/dev/mine", cgroup_permissions="r")
    script = "ls -l /dev/mine && head -c 0 < /dev/mine && echo readable; echo > /dev/mine; true"
    if not Path("/dev/loop-control").exists():
        pytest.skip("no /dev/loop-control here")
    said = bundles.run(a_record(None, {"devices": (device,)}, *shell(script)))
    assert "readable" in said
    assert "can't create /dev/mine: Operation not permitted" in said


def test_a_read_only_bind_is_read_only_below_too(bundles: Bundles, tmp_path: Path) -> None:
    below = tmp_path / "outer/inner"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
    try:
        point = MountPoint(type="bind", source=str(below.parent), target="/work", writable=False)
        said = bundles.run(a_record(None, None, *shell("touch /work/a; touch /work/inner/b; true")), mounts=(point,))
    finally:
        subprocess.run(["umount", below], check=True)
    assert said.count("Read-only file system") == 2


@pytest.mark.parametrize(("propagation", "seen"), [("rshared", True), ("rprivate", False)])
def test_a_mount_made_inside_is_seen_outside_only_when_shared(
    bundles: Bundles, tmp_path: Path, propagation: str, seen: bool
) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", outer], check=True)
    try:
        subprocess.run(["mount", "--make-rshared", outer], check=True)
        (outer / "inner").mkdir()
        point = MountPoint(type="bind", source=str(outer), target="/work", propagation=propagation)
        script = "mount -t tmpfs none /work/inner && touch /work/inner/file"
        bundles.run(a_record(None, {"cap_add": ("SYS_ADMIN",)}, *shell(script)), mounts=(point,))
        assert (outer / "inner/file").exists() is seen
    finally:
        subprocess.run(["umount", "-R", outer], check=True)


def test_a_mount_target_that_is_a_symlink_stays_inside_the_root(bundles: Bundles, tmp_path: Path) -> None:
    victim, source = tmp_path / "victim", tmp_path / "source"
    victim.mkdir()
    source.mkdir()
    (bundles.rootfs / "link").symlink_to("../../../../.." + str(victim))
    point = MountPoint(type="bind", source=str(source), target="/link/new")
    bundles.run(a_record(None, None, *shell("touch /link/new/file")), mounts=(point,))
    assert (source / "file").exists()
    assert not list(victim.iterdir())


@pytest.mark.parametrize("name", ["dev", "dev/null", "dev/pts", "dev/console"])
def test_what_an_image_links_its_devices_to_is_left_alone(bundles: Bundles, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    link = bundles.rootfs / name
    if link.is_dir():
        link.rmdir()
    link.symlink_to("../" * 20 + str(victim)[1:])
    with suppress(RunFailed, InvalidParameter):
        bundles.run(a_record(None, None, *shell("echo x > /dev/null")))
    assert not list(victim.iterdir())


def test_control_groups_cannot_be_changed_from_inside(bundles: Bundles) -> None:
    script = "echo /x > /sys/fs/cgroup/memory/release_agent; mkdir /sys/fs/cgroup/memory/x; mount -t cgroup none /work; true"
    said = bundles.run(a_record(None, None, *shell(script)))
    assert re.search("release_agent: (Read-only file system|nonexistent directory|Permission denied)", said)
    assert "can't create directory" in said
    assert "mount: mounting none on /work failed: Operation not permitted" in said or "permission denied" in said


def test_a_profile_of_the_users_is_in_force(bundles: Bundles) -> None:
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
    profile = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})
    said = bundles.run(a_record(None, {"security_opt": (f"seccomp={profile}",)}, *shell("mkdir /work/x; true")))
    assert "No space left on device" in said


def test_a_working_directory_that_is_missing_is_made(bundles: Bundles) -> None:
    assert (
        bundles.run(a_record({"working_dir": "/work/deep/down"}, None, *shell("pwd; stat -c %a,%u .")))
        == "/work/deep/down\n755,0\n"
    )


def test_a_volume_over_proc_is_refused(bundles: Bundles, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="/proc"):
        bundles.run(a_record(), mounts=(MountPoint(type="bind", source=str(tmp_path), target="/proc/sys"),))


@pytest.mark.parametrize("number", range(5, 10))
def test_a_working_directory_that_links_to_an_open_file_of_runcs_is_refused(bundles: Bundles, number: int) -> None:
    (bundles.rootfs / "out").symlink_to(f"/proc/self/fd/{number}")
    with pytest.raises(RunFailed):
        bundles.run(a_record({"working_dir": "/out"}, None, *shell("pwd; ls")))


def test_an_exec_has_the_containers_rights_and_its_own_user_and_environment(bundles: Bundles) -> None:
    record = a_record({"env": ("A=1", "B=2")}, None, "/bin/sleep", "60")
    bundles.start(record)
    wish = Exec(shell("id -u; id -G; env; pwd; cat /proc/self/status"), env=("B=3",), user="ann:video", working_dir="/work")
    said = bundles.execute(record, process_spec(record, wish, bundles.rootfs, bundles.document(record)))
    lines = said.splitlines()
    assert lines[:2] == ["1000", "44"]
    assert {"A=1", "B=3", "HOME=/home/ann", "/work", f"CapBnd:\t{DOCKERS_MASK}", f"CapInh:\t{'0' * 16}", "Seccomp:\t2"} <= set(
        lines
    )


def test_a_privileged_exec_has_what_the_engine_has(bundles: Bundles) -> None:
    record = a_record(None, {"cap_drop": ("ALL",)}, "/bin/sleep", "60")
    bundles.start(record)
    look = shell("grep CapEff /proc/self/status")
    plain = process_spec(record, Exec(look), bundles.rootfs, bundles.document(record))
    privileged = process_spec(record, Exec(look, privileged=True), bundles.rootfs, bundles.document(record))
    assert bundles.execute(record, plain) == f"CapEff:\t{'0' * 16}\n"
    assert bundles.execute(record, privileged) != f"CapEff:\t{'0' * 16}\n"


def test_an_exec_does_not_start_in_an_open_file(bundles: Bundles) -> None:
    record = a_record(None, None, "/bin/sleep", "60")
    bundles.start(record)
    (bundles.rootfs / "out").symlink_to("/proc/self/fd/7")
    wish = process_spec(record, Exec(("/bin/pwd",), working_dir="/out"), bundles.rootfs, bundles.document(record))
    with pytest.raises(RunFailed):
        bundles.execute(record, wish)


def test_sysctls_of_its_own_namespaces_are_set(bundles: Bundles) -> None:
    host = {"sysctls": {"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"}}
    files = "net/ipv4/ip_forward kernel/msgmax net/ipv4/ip_unprivileged_port_start kernel/domainname"
    said = bundles.run(a_record({"domainname": "example.org"}, host, *shell(f"cd /proc/sys && cat {files}")))
    assert said.split() == ["1", "9000", "0", "example.org"]


INIT = """
trap 'echo told; exit 7' USR1
(sleep 0.05 & exec sleep 0.1) &
kill -USR1 1
while :; do sleep 0.01; done
"""


def test_an_init_runs_the_command_hands_it_signals_and_ends_with_its_code(bundles: Bundles) -> None:
    record = a_record(None, {"init": True}, *shell("echo $PPID; exit 3"))
    with pytest.raises(RunFailed, match=r"^1\n$") as ended:
        bundles.run(record, init=built_monitor())
    assert ended.value.code == 3
    with pytest.raises(RunFailed, match="told") as told:
        bundles.run(a_record(None, {"init": True}, *shell(INIT)), init=built_monitor())
    assert told.value.code == 7
    with pytest.raises(RunFailed, match="No such file") as missing:
        bundles.run(a_record(None, {"init": True}, "/none"), init=built_monitor())
    assert missing.value.code == 127


def test_an_init_leaves_no_zombie(bundles: Bundles) -> None:
    script = "for i in 1 2 3; do (sleep 0.01 &); done; sleep 0.1; grep -h State /proc/[0-9]*/status"
    said = bundles.run(a_record(None, {"init": True}, *shell(script)), init=built_monitor())
    assert "Z (zombie)" not in said
