"""Layers made to break out, unpacked by root for real: nothing outside of their directory changes, and nothing is left over."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from pathlib import Path

import pytest

from runtime.errors import EngineError
from runtime.images import tar_writer
from runtime.images.content import Content
from runtime.images.layers import Layers
from runtime.images.limits import BadArchive, Limits
from runtime.layout import Layout
from runtime_evil_archives import corpus

NAMES = sorted(corpus("/x"))


def world(directory: Path, limits: Limits | None = None) -> tuple[Layout, Layers]:
    layout = Layout(directory / "store", directory / "run")
    return layout, Layers(layout, Content(layout), limits)


def snapshot(root: Path) -> dict[str, object]:
    """All that can be seen of a tree from outside, the store's layers excepted."""
    found: dict[str, object] = {}
    for path in (root, *sorted(root.rglob("*"))):
        seen = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        xattrs = os.listxattr(path, follow_symlinks=False)
        found[str(path)] = (seen.st_mode, seen.st_uid, seen.st_nlink, seen.st_size, seen.st_mtime_ns, content, xattrs)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_evil_layer_changes_nothing_outside_and_leaves_nothing_over(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    layout, layers = world(tmp_path)
    before, shared = snapshot(outside), snapshot(tmp_path / "store" / "content")
    tar = corpus(str(outside))[name]
    try:
        layers.unpack(io.BytesIO(tar), "", f"sha256:{hashlib.sha256(tar).hexdigest()}", "")
    except EngineError:
        assert layers.chains() == []
        assert list(layout.layers.iterdir()) == []
    assert snapshot(outside) == before
    assert snapshot(tmp_path / "store" / "content") == shared
    assert list(layout.temporary.iterdir()) == []
    assert {path.name for path in layout.root.iterdir()} == {"content", "l", "layers", "tmp"}
    assert not any("evil" in path.name for path in tmp_path.iterdir())


def test_there_are_many_of_them_and_most_are_refused(tmp_path: Path) -> None:
    refused = 0
    for number, (_, tar) in enumerate(sorted(corpus("/nowhere").items())):
        try:
            world(tmp_path / str(number))[1].unpack(io.BytesIO(tar), "", f"sha256:{hashlib.sha256(tar).hexdigest()}", "")
        except EngineError:
            refused += 1
    assert len(NAMES) >= 50
    assert refused >= 30


def test_a_bomb_stops_at_its_limits(tmp_path: Path) -> None:
    compress = zlib.compressobj(wbits=31)
    bomb = b"".join(compress.compress(bytes(1 << 20)) for _ in range(64)) + compress.flush()
    tried = [Limits(bytes=8 << 20), Limits(ratio=20, ratio_from=8 << 20)]
    for number, limits in enumerate(tried):
        layout, layers = world(tmp_path / str(number), limits)
        with pytest.raises(BadArchive, match="more than"):
            layers.unpack(io.BytesIO(_file_header(64 << 20, bomb)), "", "sha256:" + "0" * 64, "")
        assert list(layout.temporary.iterdir()) == []


def _file_header(size: int, gzipped: bytes) -> bytes:
    """A gzip file in two members: an archive's header for a file of this size, and what is in it."""
    return zlib.compress(tar_writer.file("zeros", size), wbits=31) + gzipped


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    tar = corpus("/x")["a file in the place of a symlink"]
    with pytest.raises(BadArchive, match="more than 1 entries"):
        world(tmp_path, Limits(entries=1))[1].unpack(io.BytesIO(tar), "", f"sha256:{hashlib.sha256(tar).hexdigest()}", "")
