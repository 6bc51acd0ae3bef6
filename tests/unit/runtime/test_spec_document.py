"""The parts of an OCI document that a table can say: mounts, process, resources; and what is refused before it is made."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.config import BindOptions, ContainerConfig, CreateRequest, Healthcheck, HostConfig, Mount, Resources
from runtime.containers.check import check, check_request
from runtime.containers.check_resources import check_resources
from runtime.containers.mounts import mounts, tmpfs_options
from runtime.containers.process import environment, working_directory
from runtime.containers.propagation import rootfs_propagation
from runtime.containers.record import MountPoint
from runtime.containers.resources import resources
from runtime.containers.spec import Given, build_spec
from runtime.docker_api.system import limits_json
from runtime.errors import EngineError, InvalidParameter
from runtime.linux.controllers import Controllers, parse_numbers
from runtime.linux.mountinfo import parse_mountinfo
from runtime_bundle import a_record

CONTROLS = [field.name for field in fields(Controllers) if field.type == "bool"]
ALL: dict[str, Any] = {**dict.fromkeys(CONTROLS, True), "cpus": frozenset({0, 1}), "nodes": frozenset({0})}
NONE: dict[str, Any] = dict.fromkeys(CONTROLS, False)
EVERYTHING, NOTHING = Controllers(version=1, **ALL), Controllers(version=2, **NONE)
ALONE: dict[str, int] = {}
"""First processes of other containers: there are none."""


def entries(host: HostConfig, *points: MountPoint, **more: Any) -> dict[str, dict[str, Any]]:
    plain: dict[str, Any] = {"etc_files": {}, "shm": None, "init": None}
    return {entry["destination"]: entry for entry in mounts(host, points, **{**plain, **more}).entries}


def test_mounts_are_made_from_the_root_down_and_after_the_kernels() -> None:
    points = [MountPoint(type="bind", source="/s", target=target) for target in ("/a/b/c", "/a", "/proc2/x")]
    assert list(entries(HostConfig(), *points))[-3:] == ["/a", "/proc2/x", "/a/b/c"]


def test_a_mount_replaces_the_standard_one_and_over_dev_all_in_it() -> None:
    assert entries(HostConfig(), MountPoint(type="bind", source="/s", target="/dev/shm"))["/dev/shm"]["source"] == "/s"  # noqa: S108
    found = entries(HostConfig(), MountPoint(type="bind", source="/dev", target="/dev"))
    assert not [target for target in found if target.startswith("/dev/")]
    mine = MountPoint(type="bind", source="/mine", target="/etc/hosts")
    assert entries(HostConfig(), mine, etc_files={"/etc/hosts": Path("/ours")})["/etc/hosts"]["source"] == "/mine"


def test_shared_memory_is_sized_shared_or_the_hosts() -> None:
    target = "/dev/shm"  # noqa: S108
    assert "size=1024" in entries(HostConfig(shm_size=1024))[target]["options"]
    assert entries(HostConfig(), shm=Path("/run/x/shm"))[target]["source"] == "/run/x/shm"
    assert entries(HostConfig(ipc_mode="host"))[target]["source"] == target
    assert target not in entries(HostConfig(ipc_mode="none"))


def test_read_only_binds_are_so_all_the_way_down_unless_said_otherwise() -> None:
    point = MountPoint(type="bind", source="/s", target="/t", writable=False)
    flat = Mount(type="bind", target="/t/", bind_options=BindOptions(read_only_non_recursive=True, non_recursive=True))
    assert entries(HostConfig(), point)["/t"]["options"] == ["rbind", "rro", "rprivate"]
    assert entries(HostConfig(mounts=(flat,)), point)["/t"]["options"] == ["bind", "ro", "rprivate"]


def test_a_tmpfs_is_hardened_unless_said_otherwise() -> None:
    host = HostConfig(tmpfs={"/run": "size=1m,exec,mode=700"})
    found = entries(host, MountPoint(type="tmpfs", target="/x", options=("size=5",), writable=False))
    assert found["/run"]["options"] == ["nosuid", "nodev", "rprivate", "size=1m", "exec", "mode=700"]
    assert found["/x"]["options"][-2:] == ["size=5", "ro"]
    with pytest.raises(InvalidParameter, match="invalid tmpfs option"):
        tmpfs_options("upperdir=/etc")


@pytest.mark.parametrize(("tags", "shared", "slave"), [("shared:1 ", True, True), ("master:1 ", False, True), ("", False, False)])
def test_a_bind_propagates_only_from_where_it_can(tags: str, shared: bool, slave: bool) -> None:
    table = f"1 0 8:1 / / rw - ext4 x rw\n2 1 8:1 / /with\\040space rw {tags}- ext4 x rw\n"
    for propagation, possible, found in (("rshared", shared, "shared"), ("rslave", slave, "rslave")):
        point = MountPoint(type="bind", source="/with space/x", target="/t", propagation=propagation)
        if possible:
            assert rootfs_propagation([point], tuple(parse_mountinfo(table))) == found
        else:
            with pytest.raises(InvalidParameter, match="is mounted on /with space but it is not a shared"):
                rootfs_propagation([point], tuple(parse_mountinfo(table)))


def test_the_last_value_of_a_variable_counts_and_a_bare_name_removes_it() -> None:
    assert environment(("A=1", "B=2", "A=3", "HOSTNAME"), "h", "/root", tty=True) == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM=xterm",
        "A=3",
        "B=2",
        "HOME=/root",
    ]


@pytest.mark.parametrize(
    "path", ["x", "./x", "/proc/self/fd/7", "/proc/1/fd/8/../x", "//proc/thread-self/cwd", "/proc/self/root/etc"]
)
def test_a_working_directory_is_inside(path: str) -> None:
    assert working_directory("") == "/"
    assert working_directory("/a/../b//c/") == "/b/c"
    with pytest.raises(InvalidParameter, match="working directory"):
        working_directory(path)


def test_resources_are_said_in_the_runtimes_terms() -> None:
    asked = Resources(memory=1 << 26, nano_cpus=1_500_000_000, pids_limit=7, cpu_shares=512, cpuset_cpus="0-1", blkio_weight=300)
    assert resources(asked, EVERYTHING) == {
        "memory": {"limit": 1 << 26, "swap": 1 << 27},
        "cpu": {"shares": 512, "quota": 150_000, "period": 100_000, "cpus": "0-1"},
        "pids": {"limit": 7},
        "blockIO": {"weight": 300},
    }
    assert resources(asked, NOTHING) == {}
    version_2, kubelets = NOTHING, Resources(unified={"memory.oom.group": "1"})
    assert (resources(kubelets, EVERYTHING), resources(kubelets, version_2)) == ({}, {"unified": {"memory.oom.group": "1"}})
    assert resources(Resources(), EVERYTHING) == {}
    assert resources(Resources(memory=1 << 26, memory_swap=-1, pids_limit=-1), EVERYTHING)["memory"]["swap"] == -1


def test_what_the_kernel_does_not_offer_is_left_out_and_said() -> None:
    asked = Resources(
        memory=1 << 26, nano_cpus=1, pids_limit=7, cpu_shares=5, blkio_weight=10, oom_kill_disable=True, memory_swappiness=5
    )
    warnings = check_resources(asked, NOTHING)
    assert len(warnings) == 8
    assert "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded." in warnings
    assert check_resources(replace_oom(asked), EVERYTHING) == []


def test_info_says_what_cannot_be_limited() -> None:
    everything = limits_json(EVERYTHING)
    assert (everything["SwapLimit"], everything["Warnings"]) == (True, None)
    nothing = limits_json(NOTHING)
    assert (nothing["CPUSet"], nothing["OomKillDisable"]) == (False, False)
    assert "WARNING: No swap limit support" in nothing["Warnings"]
    assert "WARNING: No oom kill disable support" not in nothing["Warnings"], "nobody has it with version 2"


def replace_oom(asked: Resources) -> Resources:
    return Resources(memory=asked.memory, oom_kill_disable=True)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"memory": 1}, "Minimum memory limit allowed is 6MB"),
        ({"memory": 1 << 26, "memory_swap": 1 << 25}, "Minimum memoryswap limit should be larger than memory limit"),
        ({"memory_swap": 1 << 26}, "You should always set the Memory limit when using Memoryswap limit"),
        ({"memory_swappiness": 101}, "valid memory swappiness range is 0-100"),
        ({"memory": 1 << 25, "memory_reservation": 1 << 26}, "Minimum memory limit can not be less than memory reservation limit"),
        ({"nano_cpus": 1, "cpu_quota": 5000}, "Nano CPUs and CPU Quota cannot both be set"),
        ({"nano_cpus": 1 << 60}, "range of CPUs is from 0.01 to"),
        ({"cpu_period": 5}, "CPU cfs period can not be less than 1ms"),
        ({"cpuset_cpus": "0-9"}, "Requested CPUs are not available - requested 0-9, available: 0,1"),
        ({"cpuset_cpus": "x"}, "Invalid value x for cpuset cpus"),
        ({"blkio_weight": 5}, "Range of blkio weight is from 10 to 1000"),
    ],
)
def test_resources_that_make_no_sense_are_refused_in_dockers_words(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        check_resources(Resources(**fields), EVERYTHING)


@pytest.mark.parametrize(
    ("config", "host", "why"),
    [
        ({"env": ("=x",)}, {}, "invalid environment variable: =x"),
        ({"working_dir": "x"}, {}, "the working directory 'x' is invalid, it needs to be an absolute path"),
        ({"stop_signal": "NO"}, {}, "invalid signal: NO"),
        ({"user": "a:b:c"}, {}, "invalid user"),
        ({"hostname": "x" * 65}, {}, "invalid hostname"),
        ({"cmd": ("a\0b",)}, {}, "NUL"),
        ({"volumes": {"x": {}}}, {}, "mount path must be absolute"),
        ({"healthcheck": Healthcheck(interval=5)}, {}, "Interval in Healthcheck cannot be less than 1ms"),
        ({}, {"pid_mode": "x"}, "invalid PID mode: x"),
        ({}, {"shm_size": -1}, "SHM size can not be less than 0"),
        ({}, {"oom_score_adj": 1001}, "Invalid value 1001, range for oom score adj"),
        ({}, {"extra_hosts": ("x",)}, 'bad format for add-host: "x"'),
        ({}, {"security_opt": ("seccomp={",)}, "Decoding seccomp profile failed"),
        ({}, {"tmpfs": {"x": ""}}, "mount path must be absolute"),
        ({}, {"storage_opt": {"size": "1"}}, "storage-opt"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_dockers_words(config: dict[str, Any], host: dict[str, Any], why: str) -> None:
    with pytest.raises(EngineError, match=why):
        check(ContainerConfig(**config), HostConfig(**host))


def test_a_request_has_nothing_of_its_own_to_set_in_anothers_network() -> None:
    check_request(CreateRequest(host_config=HostConfig(network_mode="container:x")))
    for request in (
        CreateRequest(hostname="h", host_config=HostConfig(network_mode="container:x")),
        CreateRequest(exposed_ports={"80/tcp": {}}, host_config=HostConfig(network_mode="container:x")),
        CreateRequest(hostname="h", host_config=HostConfig(uts_mode="host")),
    ):
        with pytest.raises(InvalidParameter, match="conflicting options"):
            check_request(request)


def test_lists_of_numbers_are_read_as_the_kernel_does() -> None:
    assert parse_numbers("0-2,7") == {0, 1, 2, 7}
    assert parse_numbers("") == frozenset()
    for text in ("-1", "2-1", "1,", "a", "1-99999999999"):
        with pytest.raises(ValueError, match="expected"):
            parse_numbers(text)


def test_the_document_says_what_each_part_says(tmp_path: Path) -> None:
    given = Given(rootfs=tmp_path, cgroup="/x/y", pid_of=ALONE.__getitem__, hostname="h", init=Path("/init"))
    record = a_record({"tty": True}, {"annotations": {"a": "b"}, "console_size": (24, 80)}, "/bin/true", "x")
    document = build_spec(record, given).document
    assert document["process"]["args"] == ["/bin/true", "x"]
    assert document["process"]["consoleSize"] == {"height": 24, "width": 80}
    assert (document["hostname"], document["annotations"], document["linux"]["cgroupsPath"]) == ("h", {"a": "b"}, "/x/y")
    shared = build_spec(a_record(None, {"uts_mode": "host", "init": True, "pid_mode": "host"}), replace(given)).document
    assert "hostname" not in shared
    assert shared["process"]["args"] == ["/bin/true"]


def test_an_image_whose_dev_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dev").symlink_to("/etc")
    with pytest.raises(InvalidParameter, match="/dev is a symbolic link"):
        build_spec(a_record(), Given(rootfs=tmp_path, cgroup="/x", pid_of=ALONE.__getitem__))


def test_a_gpu_is_refused_in_dockers_words(tmp_path: Path) -> None:
    record = a_record(None, {"device_requests": ({"Driver": "", "Count": -1, "Capabilities": [["gpu"]]},)})
    with pytest.raises(EngineError, match=r'could not select device driver "" with capabilities: \[\[gpu\]\]'):
        build_spec(record, Given(rootfs=tmp_path, cgroup="/x", pid_of=ALONE.__getitem__))
