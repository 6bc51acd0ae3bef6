"""Files out as a tar, and a tar in again: without root, so with our own ids."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.containers.tar_in import Extraction, unpack
from runtime.containers.tar_out import TarOut
from runtime.errors import InvalidParameter
from runtime.linux.inroot import DIRECTORY, make_dirs_in, open_in, opened

STRICT = Extraction(no_overwrite_dir_non_dir=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's root, beside a file that it must never reach."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def packed(root: Path, path: str, name: str) -> tarfile.TarFile:
    out = io.BytesIO()
    with opened(root) as descriptor:
        archive = TarOut(out)
        archive.add(open_in(descriptor, path, os.O_PATH | os.O_NOFOLLOW), name)
        archive.end()
    out.seek(0)
    return tarfile.open(fileobj=out)


def entry(name: str, data: bytes = b"", **fields: object) -> Callable[[tarfile.TarFile], None]:
    info = tarfile.TarInfo(name)
    info.size, info.uid, info.gid = len(data), os.getuid(), os.getgid()
    for key, value in fields.items():
        setattr(info, key, value)
    return lambda archive: archive.addfile(info, io.BytesIO(data))


def unpacked(root: Path, *entries: Callable[[tarfile.TarFile], None], at: str = "/", how: Extraction = Extraction()) -> None:  # noqa: B008
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for add in entries:
            add(archive)
    buffer.seek(0)
    with opened(root) as descriptor:
        unpack(descriptor, at, buffer, how)


def files_of(root: Path) -> Iterator[str]:
    return (str(path.relative_to(root)) for path in sorted(root.rglob("*")))


def test_a_directory_comes_with_all_below_it(root: Path) -> None:
    (root / "etc/deep").mkdir(parents=True)
    (root / "etc/passwd").write_text("root")
    (root / "etc/link").symlink_to("/outside")
    (root / "etc/deep/\udcff").write_text("name that is no UTF-8")
    os.mkfifo(root / "etc/fifo")
    os.link(root / "etc/passwd", root / "etc/same")
    archive = packed(root, "/etc", "etc")
    assert archive.getnames() == ["etc", "etc/deep", "etc/deep/\udcff", "etc/fifo", "etc/link", "etc/passwd", "etc/same"]
    assert archive.getmember("etc/link").linkname == "/outside"
    assert (archive.getmember("etc/same").islnk(), archive.getmember("etc/same").linkname) == (True, "etc/passwd")


@pytest.mark.parametrize(("path", "name", "names"), [("/", "/", ["", "/a"]), ("/.", ".", [".", "./a"]), ("/a", "b", ["b"])])
def test_names_begin_with_what_was_asked_for(root: Path, path: str, name: str, names: list[str]) -> None:
    (root / "a").touch()
    assert packed(root, path, name).getnames() == names


def test_what_goes_out_comes_in_the_same(root: Path, tmp_path: Path) -> None:
    (root / "d").mkdir(mode=0o750)
    (root / "d/file").write_bytes(os.urandom(100_000))
    (root / "d/file").chmod(0o4711)
    (root / ("d/" + "n" * 200)).touch()
    os.setxattr(root / "d/file", "user.note", b"\0\xff\n")
    os.utime(root / "d", (5, 5))
    out = io.BytesIO()
    with opened(root) as descriptor:
        archive = TarOut(out)
        archive.add_below(descriptor)
        archive.end()
    copy = tmp_path / "copy"
    copy.mkdir()
    with opened(copy) as descriptor:
        unpack(descriptor, "/", io.BytesIO(gzip.compress(out.getvalue())), STRICT)
    assert list(files_of(copy)) == list(files_of(root))
    assert (copy / "d/file").read_bytes() == (root / "d/file").read_bytes()
    assert (copy / "d/file").stat().st_mode == (root / "d/file").stat().st_mode
    assert os.getxattr(copy / "d/file", "user.note") == b"\0\xff\n"
    assert ((copy / "d").stat().st_mtime, (copy / "d").stat().st_mode & 0o777) == (5, 0o750)


@pytest.mark.parametrize("link", ["/outside", "../outside", "../../../../../../outside", "/../outside", "."])
def test_links_on_the_way_lead_nowhere_but_inside(root: Path, link: str) -> None:
    (root / "etc").mkdir()
    (root / "etc/link").symlink_to(link)
    unpacked(root, entry("etc/link2", type=tarfile.SYMTYPE, linkname=link))
    for name in ("etc/link/new", "etc/link2/new"):
        try:
            unpacked(root, entry(name, b"x"))
        except (FileNotFoundError, NotADirectoryError):
            continue
    assert os.listdir(root.parent / "outside") == ["secret"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "..", "a/../../outside/secret"])
def test_names_that_lead_out_are_refused(root: Path, name: str) -> None:
    with pytest.raises(InvalidParameter, match="is outside of"):
        unpacked(root, entry(name, b"x"), at="/dest")
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]


@pytest.mark.parametrize("target", ["/outside/secret", "../outside/secret", "../../outside/secret", "/etc/passwd"])
def test_hard_links_are_made_to_files_inside_only(root: Path, target: str) -> None:
    (root / "dest").mkdir()
    with pytest.raises((InvalidParameter, OSError)):
        unpacked(root, entry("mine", type=tarfile.LNKTYPE, linkname=target), at="/dest")
    assert (root.parent / "outside/secret").stat().st_nlink == 1


def test_a_link_in_place_of_a_file_is_replaced_not_followed(root: Path) -> None:
    (root / "config").symlink_to(root.parent / "outside/secret")
    unpacked(root, entry("config", b"new"))
    assert not (root / "config").is_symlink()
    assert (root.parent / "outside/secret").read_text() == "secret"


def test_a_directory_that_is_a_link_inside_is_written_through(root: Path) -> None:
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    unpacked(root, entry("lib/new", b"x"))
    assert (root / "usr/lib/new").read_text() == "x"


def test_docker_cp_does_not_replace_directories_by_files(root: Path) -> None:
    (root / "dir/sub").mkdir(parents=True)
    (root / "file").touch()
    with pytest.raises(InvalidParameter, match='cannot overwrite directory "/dir" with non-directory'):
        unpacked(root, entry("dir", b"x"), how=STRICT)
    with pytest.raises(InvalidParameter, match='cannot overwrite non-directory "/file" with directory'):
        unpacked(root, entry("file", type=tarfile.DIRTYPE), how=STRICT)
    unpacked(root, entry("dir", b"x"), entry("file", type=tarfile.DIRTYPE, mode=0o755))
    assert (root / "dir").is_file()
    assert (root / "file").is_dir()


def test_a_path_with_a_file_on_it_is_an_error_of_that_entry(root: Path) -> None:
    (root / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        unpacked(root, entry("file/below", b"x"))
    assert caught.value.filename == "file/below"


@pytest.mark.parametrize("content", [b"no archive" * 100, os.urandom(2000), b"\x1f\x8b\x08" + b"no gzip" * 20])
def test_what_is_no_archive_makes_nothing(root: Path, content: bytes) -> None:
    with opened(root) as descriptor, pytest.raises(InvalidParameter):
        unpack(descriptor, "/", io.BytesIO(content), STRICT)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("content", [b"", bytes(1024), bytes(10240)])
def test_an_empty_archive_is_one(root: Path, content: bytes) -> None:
    with opened(root) as descriptor:
        unpack(descriptor, "/", io.BytesIO(content), STRICT)


def test_sparse_files_keep_their_holes(root: Path) -> None:
    (root / "a").touch()
    os.truncate(root / "a", 3 << 20)
    archive = packed(root, "/a", "a")
    assert archive.getmember("a").size == 3 << 20


@pytest.mark.parametrize("path", ["/a/b/c", "a/b/c", "//a/./b/c/", "/x/../a/b/c"])
def test_directories_are_made_inside(root: Path, path: str) -> None:
    with opened(root) as descriptor:
        for _ in range(2):
            os.close(make_dirs_in(descriptor, path))
    assert (root / "a/b/c").is_dir()


def test_directories_are_made_behind_links_inside(root: Path) -> None:
    (root / "real").mkdir()
    (root / "link").symlink_to("/real")
    (root / "out").symlink_to(root.parent / "outside")
    with opened(root) as descriptor:
        os.close(make_dirs_in(descriptor, "/link/a/b", 0o700))
        with pytest.raises(FileNotFoundError):
            make_dirs_in(descriptor, "/out/a")
        assert (root / "real/a/b").stat().st_mode & 0o777 == 0o700
        with pytest.raises(FileNotFoundError):
            open_in(descriptor, "/../outside", DIRECTORY)
    assert os.listdir(root.parent / "outside") == ["secret"]


def test_links_of_proc_are_not_jumped_through(tmp_path: Path) -> None:
    with opened(Path("/")) as descriptor, pytest.raises(OSError, match="Too many levels"):
        open_in(descriptor, "/proc/self/root/etc", DIRECTORY)
