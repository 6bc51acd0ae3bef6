from pathlib import Path

import pytest

from runtime.containers import bundle


def test_a_bundle_is_nobodys_business_and_its_config_comes_back(tmp_path: Path) -> None:
    made = tmp_path / "run" / "ab"
    bundle.make_bundle(made)
    bundle.make_bundle(made)
    assert made.stat().st_mode & 0o777 == 0o700
    bundle.write_config(made, {"process": {"env": ["PASSWORD=x"]}})
    assert bundle.read_config(made) == {"process": {"env": ["PASSWORD=x"]}}


def test_files_over_etc_are_written_in_place(tmp_path: Path) -> None:
    bundle.write_etc(tmp_path, {bundle.HOSTS: "a long first text", bundle.HOSTNAME: "web\n"})
    inode = (tmp_path / "hosts").stat().st_ino
    seen = bundle.write_etc(tmp_path, {bundle.HOSTS: "short"})
    assert seen == {"/etc/hosts": tmp_path / "hosts", "/etc/hostname": tmp_path / "hostname"}
    assert ((tmp_path / "hosts").read_text(), (tmp_path / "hosts").stat().st_ino) == ("short", inode)


def test_sweeping_takes_everything_and_may_be_repeated(tmp_path: Path) -> None:
    for path in ("ab/rootfs", "ab/shm", "ab/mounts/0/rootfs", "ab/mounts/0/upper", "ab/mounts/1/part", "ab/execs/x"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "ab/mounts/2").mkdir()
    (tmp_path / "ab/mounts/2/part").touch()
    bundle.sweep_bundle(tmp_path / "ab")
    bundle.sweep_bundle(tmp_path / "ab")
    assert list(tmp_path.iterdir()) == []


def test_what_may_still_be_mounted_is_never_deleted(tmp_path: Path) -> None:
    kept = tmp_path / "ab/rootfs/file"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with pytest.raises(OSError, match="rootfs"):
        bundle.sweep_bundle(tmp_path / "ab")
    assert kept.exists()
