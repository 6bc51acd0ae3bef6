"""Who a process is, by an image's own files, which may be anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.containers.users import User, find_user, parse_user
from runtime.errors import InvalidParameter

ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:\n42:x:7:7::/odd:\nbroken\nbad:x:nan:0::/:\n#ann:x:0:0::/:\n"
GROUPS = "root:x:0:\nwheel:x:10:ann,bob\nann:x:1001:\nvideo:x:44:ann\nbroken:x\n"


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(ACCOUNTS)
    (tmp_path / "etc/group").write_text(GROUPS)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "groups", "user"),
    [
        ("", (), User(0, 0, (0,), "/root")),
        ("ann", (), User(1000, 1001, (1001, 10, 44), "/home/ann")),
        ("1000", (), User(1000, 1001, (1001, 10, 44), "/home/ann")),
        ("ann:video", (), User(1000, 44, (44,), "/home/ann")),
        ("ann:9", ("wheel", "77"), User(1000, 9, (9, 10, 77), "/home/ann")),
        ("5000", (), User(5000, 0, (0,), "/")),
        ("5000:6000", (), User(5000, 6000, (6000,), "/")),
        (":video", (), User(0, 44, (44,), "/root")),
        ("ann:", (), User(1000, 1001, (1001, 10, 44), "/home/ann")),
        ("42", (), User(7, 7, (7,), "/odd")),
        ("2147483647", (), User(2147483647, 0, (0,), "/")),
    ],
)
def test_users_and_groups_are_found_by_name_and_number(rootfs: Path, text: str, groups: tuple[str, ...], user: User) -> None:
    assert find_user(rootfs, text, groups) == user


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("bob", "unable to find user bob: no matching entries in passwd file"),
        ("bad", "unable to find user bad: no matching entries in passwd file"),
        ("ann:none", "unable to find group none: no matching entries in group file"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("0:4294967296", "uids and gids must be in range 0-2147483647"),
        ("+0", "unable to find user"),
        ("0x0", "unable to find user"),
        ("1000:1:2", "invalid user"),
        (" 0", "invalid user"),
        ("0\n", "invalid user"),
        ("ann\0", "invalid user"),
    ],
)
def test_whoever_is_not_known_for_certain_is_refused(rootfs: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        find_user(rootfs, text)


def test_a_root_without_files_has_numbers_alone(tmp_path: Path) -> None:
    assert find_user(tmp_path, "12:34") == User(12, 34, (34,), "/")
    assert find_user(tmp_path, "") == User(0, 0, (0,), "/")
    with pytest.raises(InvalidParameter):
        find_user(tmp_path, "root")


def test_a_link_out_of_the_root_leads_back_into_it(tmp_path: Path, rootfs: Path) -> None:
    inside = rootfs / "inside"
    (inside / "etc").mkdir(parents=True)
    (inside / "etc/passwd").symlink_to("../../etc/passwd")
    (inside / "etc/group").symlink_to("/proc/self/root" + str(tmp_path / "etc/group"))
    with pytest.raises(InvalidParameter):
        find_user(inside, "ann")


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_a_passwd_that_is_no_file_is_none(tmp_path: Path, kind: str) -> None:
    (tmp_path / "etc").mkdir()
    if kind == "fifo":
        os.mkfifo(tmp_path / "etc/passwd")
    else:
        (tmp_path / "etc/passwd").mkdir()
    assert find_user(tmp_path, "5").uid == 5


def test_what_is_left_open_is_empty() -> None:
    assert parse_user("") == ("", "")
    assert parse_user("a:b") == ("a", "b")
