import os
from pathlib import Path

import pytest

from runtime.linux.trees import discard_tree, remove_tree, size_of

DEPTH = 3000
"""Deeper than Python recurses and than the kernel takes a path."""


def dig(path: Path, depth: int) -> None:
    """Directories within directories, with a file in the last."""
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    dig(tmp_path / "deep", DEPTH)
    (tmp_path / "deep/e/f").mkdir(parents=True)
    remove_tree(tmp_path / "deep")
    assert os.listdir(tmp_path) == []


def test_a_tree_deeper_than_any_path_has_a_size(tmp_path: Path) -> None:
    dig(tmp_path / "deep", DEPTH)
    (tmp_path / "deep/file").write_bytes(b"12345")
    (tmp_path / "deep/same").hardlink_to(tmp_path / "deep/file")
    (tmp_path / "deep/link").symlink_to("/etc/passwd")
    assert size_of(tmp_path / "deep") == 5 + len("/etc/passwd")
    remove_tree(tmp_path / "deep")


def test_links_are_removed_and_what_they_name_is_not(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree/sub/up").symlink_to("../..")
    os.mkfifo(tmp_path / "tree/fifo")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("tree", "link", "nothing"):
        remove_tree(tmp_path / name)
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(tmp_path / "kept") == ["file"]


def test_what_cannot_be_removed_is_an_error_or_left_as_it_is_wanted() -> None:
    with pytest.raises(OSError, match=r"not permitted|Permission denied|Read-only|busy"):
        remove_tree(Path("/proc/self"))
    discard_tree(Path("/proc/self"))
