"""Numbers for kubelets: rates between questions, and what a tree takes of a disk."""

from __future__ import annotations

from pathlib import Path

from runtime.cri.disk_usage import DiskUsage, measure
from runtime.cri.stats import CpuRates, memory_usage
from runtime.linux.cgroup_files import CpuUse, MemoryUse
from runtime.linux.cgroups import CgroupStats

S = 1_000_000_000


def test_a_rate_is_of_the_time_between_two_questions() -> None:
    rates = CpuRates()
    assert rates.of("a", 10 * S, 5 * S) is None
    assert rates.of("a", 12 * S, 6 * S) == S // 2
    assert rates.of("a", 12 * S + 1, 7 * S) == S // 2, "too soon for another"
    assert rates.of("b", 12 * S, 0) is None
    assert rates.of("a", 20 * S, 0) is None, "it has begun anew"
    rates.keep(["b"])
    assert rates.of("a", 30 * S, S) is None


def test_a_working_set_is_what_cannot_be_dropped() -> None:
    used = CgroupStats(1, CpuUse(), MemoryUse(usage=100, limit=150, details={"total_inactive_file": 30, "total_rss": 60}))
    told = memory_usage(1, used)
    assert (told.working_set_bytes.value, told.available_bytes.value, told.rss_bytes.value) == (70, 80, 60)
    unified = CgroupStats(2, CpuUse(), MemoryUse(usage=100, limit=150, details={"inactive_file": 10, "anon": 50}))
    assert (memory_usage(1, unified).working_set_bytes.value, memory_usage(1, unified).rss_bytes.value) == (90, 50)


async def test_a_tree_is_measured_and_then_remembered(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_bytes(b"x" * 10_000)
    (tmp_path / "link").symlink_to("/usr")
    found = measure(tmp_path)
    assert found.inodes == 3
    assert 10_000 <= found.bytes < 100_000
    disk = DiskUsage()
    first = await disk.of(tmp_path)
    (tmp_path / "more").write_bytes(b"x")
    assert await disk.of(tmp_path) is first
    assert measure(tmp_path / "absent").inodes == 0
