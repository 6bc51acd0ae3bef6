from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.containers.path_stat import base_name, clean_path, go_mode, stat_in
from runtime.errors import InvalidParameter
from runtime.linux.inroot import opened


@pytest.mark.parametrize(
    ("path", "clean", "base"),
    [
        ("/etc", "/etc", "etc"),
        ("etc/", "/etc/", "etc"),
        ("/etc/.", "/etc/.", "."),
        ("/", "/", "/"),
        (".", "/.", "."),
        ("//a/../b//c", "/b/c", "c"),
        ("../../etc", "/etc", "etc"),
    ],
)
def test_paths_are_cleaned_as_docker_does(path: str, clean: str, base: str) -> None:
    assert clean_path(path) == clean
    assert base_name(clean) == base


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_paths_that_are_none_are_refused(path: str) -> None:
    with pytest.raises(InvalidParameter):
        clean_path(path)


@pytest.mark.parametrize(
    ("mode", "go"), [(0o100644, 0o644), (0o040755, 1 << 31 | 0o755), (0o120777, 1 << 27 | 0o777), (0o104755, 1 << 23 | 0o755)]
)
def test_modes_are_go_s(mode: int, go: int) -> None:
    assert go_mode(mode) == go


def test_a_link_tells_where_all_links_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/b/../c")
    (tmp_path / "c").symlink_to("../../d/e")
    (tmp_path / "file").write_text("hello")
    os.utime(tmp_path / "file", ns=(0, 1_500_000_001))
    with opened(tmp_path) as root:
        assert stat_in(root, "/a").link_target == "/d/e"
        found = stat_in(root, "/file")
    assert (found.name, found.size, found.mtime, found.link_target) == ("file", 5, "1970-01-01T00:00:01.500000001Z", "")


def test_a_slash_at_the_end_asks_for_the_directory_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    with opened(tmp_path) as root:
        assert not stat_in(root, "/link").is_directory
        assert stat_in(root, "/link/").is_directory
        assert stat_in(root, "/link/.").is_directory


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with opened(tmp_path) as root, pytest.raises(InvalidParameter, match="too many links"):
        stat_in(root, "/a")
