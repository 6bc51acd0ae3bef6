import os
from pathlib import Path

import pytest

from runtime.errors import InvalidParameter, NotFound
from runtime.images.content import STALE_S, Content, DigestMismatch, digest_of
from runtime.layout import Layout

DATA = b"all of it" * 1000
DIGEST = digest_of(DATA)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root", tmp_path / "run")


@pytest.fixture
def content(layout: Layout) -> Content:
    return Content(layout)


def half_made(layout: Layout) -> list[Path]:
    return [*layout.temporary.iterdir(), *(layout.content / "partial").iterdir()]


def write(content: Content, data: bytes, size: int | None, *, resumable: bool) -> None:
    with content.writer(DIGEST, size, resumable=resumable) as writer:
        writer.write(data)
        writer.commit()


def test_a_blob_is_found_by_the_digest_of_its_bytes(content: Content) -> None:
    assert content.put(DATA) == content.put(DATA) == DIGEST
    assert content.has(DIGEST)
    assert content.read(DIGEST) == DATA
    assert content.size(DIGEST) == len(DATA)
    assert list(content.digests()) == [DIGEST]
    with pytest.raises(NotFound):
        content.read(digest_of(b"something else"))


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "A" * 64, "md5:" + "0" * 64, "sha256:../" + "0" * 61]
)
def test_what_is_no_digest_names_no_file(content: Content, digest: str) -> None:
    for ask in (content.path, content.has, content.read, content.writer):
        with pytest.raises(InvalidParameter, match="invalid digest"):
            ask(digest)


@pytest.mark.parametrize(
    ("came", "size", "why"),
    [
        (b"else", None, "has the digest"),
        (DATA + b"!", len(DATA), "longer than"),
        (DATA[:-1], len(DATA), "ended after 8999 of 9000"),
    ],
)
@pytest.mark.parametrize("resumable", [False, True])
def test_what_is_not_what_was_announced_is_not_kept(
    content: Content, layout: Layout, came: bytes, size: int | None, why: str, resumable: bool
) -> None:
    with pytest.raises(DigestMismatch, match=why):
        write(content, came, size, resumable=resumable)
    assert not content.has(DIGEST)
    assert bool(half_made(layout)) == (resumable and came == DATA[:-1])


def test_a_blob_without_commit_is_gone(content: Content, layout: Layout) -> None:
    with content.writer() as writer:
        writer.write(DATA)
    assert list(content.digests()) == []
    assert half_made(layout) == []


def test_a_broken_off_download_goes_on_where_it_was(content: Content, layout: Layout) -> None:
    with content.writer(DIGEST, len(DATA), resumable=True) as writer:
        writer.write(DATA[:5000])
    with Content(layout).writer(DIGEST, len(DATA), resumable=True) as writer:
        assert writer.offset == 5000
        writer.write(DATA[5000:])
        assert writer.commit() == DIGEST
    assert content.read(DIGEST) == DATA
    assert half_made(layout) == []


def test_a_source_that_cannot_go_on_begins_anew(content: Content) -> None:
    with content.writer(DIGEST, resumable=True) as writer:
        writer.write(b"spoilt")
    with content.writer(DIGEST, resumable=True) as writer:
        writer.restart()
        writer.write(DATA)
        writer.commit()
    assert content.read(DIGEST) == DATA


def test_two_writers_of_one_blob_do_not_share_a_file(content: Content, layout: Layout) -> None:
    with content.writer(DIGEST, resumable=True) as one, content.writer(DIGEST, resumable=True) as two:
        for writer in (one, two):
            assert writer.offset == 0
            writer.write(DATA)
            writer.commit()
    assert content.read(DIGEST) == DATA
    assert half_made(layout) == []


def test_a_download_that_nobody_goes_on_with_is_dropped_after_a_week(content: Content, layout: Layout) -> None:
    for digest in (DIGEST, digest_of(b"other")):
        with content.writer(digest, resumable=True) as writer:
            writer.write(b"begun")
    stale = layout.content / "partial" / DIGEST.removeprefix("sha256:")
    os.utime(stale, (0, stale.stat().st_mtime - STALE_S - 1))
    content.drop_stale()
    assert [path.name for path in half_made(layout)] == [digest_of(b"other").removeprefix("sha256:")]
