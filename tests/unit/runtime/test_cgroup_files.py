"""Files of control groups as kernels wrote them: 6.18 with v1 and hybrid, 6.1 with v2."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.containers.stats import parse_net_dev, parse_system_cpu, render_memory
from runtime.linux.cgroup_files import UNLIMITED, BlockIo, MemoryUse, parse_limit, parse_pairs
from runtime.linux.cgroups import Cgroup, hierarchies
from runtime.linux.controllers import controllers
from runtime.linux.mountinfo import parse_mountinfo

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1 = {
    "cpu/cpu.stat": "nr_periods 7\nnr_throttled 2\nthrottled_time 900\n",
    "cpuacct/cpuacct.usage": "5000\n",
    "cpuacct/cpuacct.usage_percpu": "3000 2000 \n",
    "cpuacct/cpuacct.stat": "user 3\nsystem 1\n",
    "memory/memory.usage_in_bytes": "4096\n",
    "memory/memory.max_usage_in_bytes": "8192\n",
    "memory/memory.limit_in_bytes": "65536\n",
    "memory/memory.failcnt": "1\n",
    "memory/memory.stat": "cache 1\ntotal_inactive_file 1024\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "pids/pids.current": "2\n",
    "pids/pids.max": "max\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "254:0 Read 4096\n254:0 Write 0\n254:0 Total 4096\nTotal 4096\n",
}
V2 = {
    "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 2\nthrottled_usec 9\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.stat": "anon 10\ninactive_file 1024\n",
    "memory.events": "low 0\nhigh 0\nmax 5\noom 4\noom_kill 3\n",
    "pids.current": "2\n",
    "pids.max": "100\n",
    "io.stat": "254:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0\n8:0 \n",
}


def written(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_v1_is_read(tmp_path: Path) -> None:
    written(tmp_path, V1)
    group = Cgroup({name: tmp_path / name for name in ("cpu", "cpuacct", "memory", "pids", "blkio")})
    found = group.stats()
    assert (found.version, found.pids_current, found.pids_limit, group.oom_kills()) == (1, 2, 0, 3)
    assert (found.cpu.total_ns, found.cpu.user_ns, found.cpu.per_cpu_ns) == (5000, 30_000_000, (3000, 2000))
    assert (found.cpu.periods, found.cpu.throttled_periods, found.cpu.throttled_ns) == (7, 2, 900)
    assert found.memory == MemoryUse(4096, 8192, 65536, 1, {"cache": 1, "total_inactive_file": 1024})
    assert found.bytes_moved == tuple(BlockIo(254, 0, *what) for what in (("Read", 4096), ("Write", 0), ("Total", 4096)))


def test_v2_is_read(tmp_path: Path) -> None:
    written(tmp_path, V2)
    group = Cgroup({"": tmp_path})
    found = group.stats()
    assert (found.version, found.pids_current, found.pids_limit, group.oom_kills()) == (2, 2, 100, 3)
    assert (found.cpu.total_ns, found.cpu.user_ns, found.cpu.system_ns, found.cpu.throttled_ns) == (5000, 3000, 2000, 9000)
    assert found.memory == MemoryUse(4096, 0, UNLIMITED, 4, {"anon": 10, "inactive_file": 1024})
    assert found.bytes_moved[:2] == (BlockIo(254, 0, "read", 4096), BlockIo(254, 0, "write", 512))
    assert found.operations[:2] == (BlockIo(254, 0, "read", 1), BlockIo(254, 0, "write", 2))


def test_a_group_that_is_gone_has_used_nothing(tmp_path: Path) -> None:
    group = Cgroup({"memory": tmp_path / "none", "": tmp_path / "none"})
    assert (group.exists(), group.processes(), group.oom_kills(), group.stats().memory.usage) == (False, [], 0, 0)


def test_processes_below_belong_to_it(tmp_path: Path) -> None:
    written(tmp_path, {"cgroup.procs": "7\n3\n", "init.scope/cgroup.procs": "12\n"})
    assert Cgroup({"pids": tmp_path}).processes() == [3, 7, 12]


def test_controllers_are_found_where_they_are_mounted() -> None:
    found = hierarchies(parse_mountinfo(HYBRID))
    assert found["cpuacct"] == found["cpu"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert (found["memory"], found[""]) == (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/unified"))
    assert Cgroup.at("/tartan/abc", parse_mountinfo(HYBRID)).directories["memory"] == Path("/sys/fs/cgroup/memory/tartan/abc")


def test_the_root_group_is_found_in_the_real_hierarchies() -> None:
    group = Cgroup.at("/")
    assert group.exists()
    assert group.stats().cpu.total_ns > 0


def test_groups_of_threads_alone_are_passed_over(tmp_path: Path) -> None:
    written(tmp_path, {"cgroup.procs": "7\n", "work/cgroup.procs": "12\n"})
    (tmp_path / "threads/cgroup.procs").mkdir(parents=True)  # no more to be read than with EOPNOTSUPP
    assert Cgroup({"": tmp_path}).processes() == [7, 12]


@pytest.mark.parametrize(("files", "swap"), [((), False), (("memory.swap.max",), True)])
def test_whether_v2_limits_swap_is_told_by_a_group_with_limits(tmp_path: Path, files: tuple[str, ...], swap: bool) -> None:
    written(tmp_path, {"cgroup.controllers": "cpu memory\n", "idle/cgroup.procs": ""})
    written(tmp_path / "system.slice", dict.fromkeys(("memory.max", *files), "max\n"))
    found = controllers(tmp_path)
    assert (found.version, found.memory, found.swap, found.pids, found.options) == (2, True, swap, False, ())


@given(st.text(max_size=80))
def test_any_text_is_read_as_something(text: str) -> None:
    assert parse_limit(text) >= 0
    parse_pairs(text)


def test_mount_points_with_spaces_are_plain() -> None:
    (found,) = parse_mountinfo("1 2 8:1 / /a\\040b rw - ext4 /dev/x rw")
    assert found.target == "/a b"


def test_without_a_limit_it_is_the_host_s_memory() -> None:
    assert render_memory(MemoryUse(usage=5, limit=UNLIMITED), 1000) == {"usage": 5, "stats": {}, "limit": 1000}


def test_interfaces_are_counted_but_lo() -> None:
    text = "a\nb\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 0 1 0 0 0 0 20 3 0 0 0 0 0 0\n"
    assert parse_net_dev(text) == {
        "eth0": {
            "rx_bytes": 10,
            "rx_packets": 2,
            "rx_errors": 0,
            "rx_dropped": 1,
            "tx_bytes": 20,
            "tx_packets": 3,
            "tx_errors": 0,
            "tx_dropped": 0,
        }
    }


def test_the_host_s_time_is_of_all_states() -> None:
    assert parse_system_cpu("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1\ncpu1 1\nintr 5\n") == (280_000_000, 2)
