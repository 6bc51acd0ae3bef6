import io
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.images import tar_writer
from runtime.images.limits import BadArchive
from runtime.images.tar_reader import DIRECTORY, FILE, HARD_LINK, SYMLINK, Entry, TarReader

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read(tar: bytes, piece: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    reader = TarReader(tar[at : at + piece] for at in range(0, len(tar), piece))
    return [(entry, b"".join(reader.data())) for entry in reader]


def written(format_: int, *infos: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        for info, data in infos:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("piece", [1 << 20, 700, 1])
def test_what_tarfile_writes_is_read(format_: int, piece: int) -> None:
    info, link, directory = tarfile.TarInfo("etc/" + "n" * 90), tarfile.TarInfo("bin/sh"), tarfile.TarInfo("tmp")
    info.mode, info.uid, info.gid, info.mtime = 0o4755, 1000, 100, 1_700_000_000
    link.type, link.linkname = tarfile.SYMTYPE, "busybox"
    directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
    found = read(written(format_, (info, b"x" * 1000), (link, b""), (directory, b"")), piece)
    assert found == [
        (Entry(info.name.encode(), FILE, 0o4755, 1000, 100, 1000, 1_700_000_000 * 10**9), b"x" * 1000),
        (Entry(b"bin/sh", SYMLINK, 0o644, 0, 0, 0, 0, b"busybox"), b""),
        (Entry(b"tmp/", DIRECTORY, 0o1777, 0, 0, 0, 0), b""),
    ]


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_does_not_fit_a_header_is_read_from_beside_it(format_: int) -> None:
    info = tarfile.TarInfo("d/" * 100 + "name")
    info.type, info.linkname, info.uid = tarfile.LNKTYPE, "l/" * 100 + "link", 1 << 30
    ((entry, _),) = read(written(format_, (info, b"")))
    assert (entry.type, entry.name, entry.link, entry.uid) == (HARD_LINK, info.name.encode(), info.linkname.encode(), 1 << 30)


def test_pax_headers_say_attributes_and_fractions_of_seconds() -> None:
    info = tarfile.TarInfo("f")
    info.pax_headers = {"SCHILY.xattr.user.a": "b=c\n", "mtime": "12.000000345", "comment": "no matter"}
    ((entry, _),) = read(written(tarfile.PAX_FORMAT, (info, b"")))
    assert entry.xattrs == ((b"user.a", b"b=c\n"),)
    assert entry.mtime_ns == 12_000_000_345


def test_what_is_behind_the_end_is_read_too() -> None:
    tar = written(tarfile.GNU_FORMAT, (tarfile.TarInfo("a"), b"1"))
    left = iter([tar, b"\0" * 99, b"more"])
    assert [entry.name for entry in TarReader(left)] == [b"a"]
    assert next(left, None) is None


@pytest.mark.parametrize("how", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"])
def test_sparse_files_are_read_in_every_way_that_gnu_tar_writes_them(how: str, tmp_path: Path) -> None:
    with (tmp_path / "s").open("wb") as file:
        for number in range(40):  # more pieces than one header holds
            file.seek(number * 100_000)
            file.write(b"data%d" % number)
        file.truncate(5_000_000)
    format_ = [] if "format" in how else ["--format=posix"]
    tar = subprocess.run(["tar", *format_, how, "-ScC", tmp_path, "s"], check=True, capture_output=True).stdout
    ((entry, data),) = read(tar)
    assert entry.name == b"s"
    assert entry.extents is not None
    whole, at = bytearray(entry.extents[-1][0]), 0
    for offset, length in entry.extents:
        whole[offset : offset + length] = data[at : at + length]
        at += length
    assert whole == (tmp_path / "s").read_bytes()


@given(st.binary(max_size=1100), st.integers(0, 1500))
def test_any_bytes_are_an_archive_or_a_bad_one(noise: bytes, at: int) -> None:
    good = written(tarfile.PAX_FORMAT, (tarfile.TarInfo("n" * 120), b"data"), (tarfile.TarInfo("b"), b""))
    for tar in (noise, good[:at] + noise + good[at + len(noise) :]):
        with suppress(BadArchive):
            read(tar, 300)


NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and name.strip(b"/"))
ENTRIES = st.builds(
    Entry,
    NAMES,
    st.sampled_from([DIRECTORY, SYMLINK, HARD_LINK]),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(0, 2**32 - 2),
    st.just(0),
    st.integers(0, 2**33 - 1).map(lambda seconds: seconds * 10**9),
    NAMES,
    st.just((0, 0)),
    st.lists(st.tuples(st.just(b"user.x"), st.binary(max_size=200)), max_size=1).map(tuple),
)


@given(ENTRIES)
def test_what_is_written_is_what_is_read(entry: Entry) -> None:
    tar = tar_writer.header(entry)
    ((found, _),) = read(tar + tar_writer.end_of(len(tar)))
    assert found == entry


def test_tarfile_reads_what_is_written() -> None:
    entry = Entry("ä/".encode() * 90 + b"name", FILE, 0o640, 1 << 24, 5, 3, 77 * 10**9, xattrs=((b"user.k", b"v"),))
    tar = tar_writer.header(entry) + b"abc" + tar_writer.padding(3)
    with tarfile.open(fileobj=io.BytesIO(tar + tar_writer.end_of(len(tar)))) as found:
        (info,) = found.getmembers()
        content = found.extractfile(info)
        assert content is not None
        assert content.read() == b"abc"
    assert (info.name, info.mode, info.uid, info.gid, info.mtime) == ("ä/" * 90 + "name", 0o640, 1 << 24, 5, 77)
    assert info.pax_headers["SCHILY.xattr.user.k"] == "v"
    assert len(tar + tar_writer.end_of(len(tar))) % 10240 == 0
