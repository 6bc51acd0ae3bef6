"""Layers unpacked and packed by root for real: attributes, whiteouts, and what may be believed after the machine went down."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
from pathlib import Path

import msgspec
import pytest

from flanneld.linux import netns
from runtime.errors import EngineError, NotFound
from runtime.images.content import Content, DigestMismatch
from runtime.images.layers import Layer, Layers, chain_ids
from runtime.images.pack import pack
from runtime.layout import Layout
from runtime_evil_archives import archive, directory, file, hard_link, item, symlink

CAPABILITY = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
"""security.capability of `setcap cap_net_bind_service+ep` (linux/capability.h, vfs_cap_data)."""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root", tmp_path / "run")


@pytest.fixture
def layers(layout: Layout) -> Layers:
    return Layers(layout, Content(layout))


def digest(tar: bytes) -> str:
    return f"sha256:{hashlib.sha256(tar).hexdigest()}"


def unpacked(layers: Layers, tar: bytes, parent: str = "") -> Path:
    """The directory of a layer made of this archive."""
    chain = layers.unpack(io.BytesIO(tar), "", digest(tar), parent)
    return layers.lower_dirs(chain)[0]


def packed(directory_: Path) -> bytes:
    out = io.BytesIO()
    pack(directory_, out.write)
    return out.getvalue()


def everything() -> bytes:
    """One of each kind, in the order of names, as we write them."""
    return archive(
        [
            directory("d", mode=0o2750, uid=7, gid=8, mtime=1_600_000_000),
            item("d/f", data=b"content", mode=0o4755, uid=1000, gid=1001, mtime=1_500_000_000),
            item("d/hard", tarfile.LNKTYPE, "d/f", mode=0o4755, uid=1000, gid=1001, mtime=1_500_000_000),
            symlink("d/s", "../nowhere"),
            item("dev", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            item("fifo", tarfile.FIFOTYPE, mode=0o600),
            directory("sticky", mode=0o1777),
        ]
    )


def test_all_that_an_archive_says_of_a_file_is_so(layers: Layers) -> None:
    root = unpacked(layers, everything())
    made, within = (root / "d/f").stat(), (root / "d").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid, made.st_mtime, made.st_nlink) == (0o4755, 1000, 1001, 1.5e9, 2)
    assert (stat.S_IMODE(within.st_mode), within.st_uid, within.st_gid, within.st_mtime) == (0o2750, 7, 8, 1.6e9)
    assert (root / "d/hard").samefile(root / "d/f")
    assert os.readlink(root / "d/s") == "../nowhere"
    assert os.stat(root / "dev").st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
    assert stat.S_IMODE((root / "sticky").stat().st_mode) == 0o1777


def test_capabilities_survive_data_and_owners(layers: Layers) -> None:
    headers = {"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1"), "SCHILY.xattr.user.note": "n"}
    root = unpacked(layers, archive([item("f", data=b"x" * 5000, uid=5, pax_headers=headers)]))
    assert os.getxattr(root / "f", "security.capability") == CAPABILITY
    assert os.getxattr(root / "f", "user.note") == b"n"


def test_the_engines_umask_is_neither_obeyed_nor_changed(layers: Layers) -> None:
    before = os.umask(0o077)
    try:
        root = unpacked(layers, archive([file("f"), directory("d", mode=0o777), file("made/on/the/way")]))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in ("f", "d", "made", "")] == [0o777, 0o777, 0o755, 0o755]


def test_a_later_entry_replaces_an_earlier_one(layers: Layers) -> None:
    entries = [
        directory("a"),
        file("a/gone"),
        item("a", data=b"now a file"),
        symlink("b", "a"),
        directory("b"),
        file("b/x"),
        file("b/x"),
    ]
    root = unpacked(layers, archive(entries))
    assert (root / "a").read_bytes() == b"now a file"
    assert (root / "b/x").read_bytes() == b"evil"
    assert not (root / "b").is_symlink()


def test_symlinks_of_the_layer_are_followed_inside_of_it(layers: Layers) -> None:
    root = unpacked(layers, archive([directory("usr/lib"), symlink("lib", "/usr/lib"), file("lib/x"), hard_link("h", "lib/x")]))
    assert (root / "usr/lib/x").samefile(root / "h")


def test_whiteouts_are_what_overlayfs_wants(layers: Layers) -> None:
    entries = [
        file("d/.wh.gone"),
        directory("o"),
        file("o/.wh..wh..opq"),
        file("o/new"),
        file(".wh.was"),
        directory("was"),
        directory("is"),
    ]
    root = unpacked(layers, archive([*entries, file(".wh.is"), file(".wh.f"), file("f")]))
    gone = (root / "d/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert [name for name in ("o", "was", "is") if os.getxattr(root / name, "trusted.overlay.opaque") == b"y"] == ["o", "was", "is"]
    assert (root / "f").read_bytes() == b"evil"
    assert not list(root.rglob(".wh.*"))


def test_what_is_packed_is_what_was_unpacked_byte_by_byte(layers: Layers) -> None:
    whiteouts = [directory("o", mode=0o755), item("o/.wh..wh..opq", mode=0), item("o/new", data=b"1"), item("o/.wh.old", mode=0)]
    first = packed(unpacked(layers, archive([*whiteouts, item("n" * 200, pax_headers={"SCHILY.xattr.user.a": "b"})])))
    again = packed(unpacked(layers, first))
    assert again == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert tar.getnames() == ["n" * 200, "o", "o/.wh..wh..opq", "o/new", "o/.wh.old"]
    everywhere = packed(unpacked(layers, everything()))
    assert packed(unpacked(layers, everywhere)) == everywhere


def test_a_layer_with_another_digest_is_not_kept(layout: Layout, layers: Layers) -> None:
    with pytest.raises(DigestMismatch, match="expected sha256:0000"):
        layers.unpack(io.BytesIO(everything()), "", "sha256:" + "0" * 64, "")
    assert layers.chains() == os.listdir(layout.temporary) == os.listdir(layout.layers) == []


def test_a_layer_is_unpacked_once_whatever_it_is_compressed_with(layers: Layers) -> None:
    tar = everything()
    root = unpacked(layers, tar)
    (root / "mark").touch()
    assert layers.unpack(io.BytesIO(gzip.compress(tar)), "", digest(tar), "") == digest(tar)
    assert (root / "mark").exists()
    assert layers.size(digest(tar)) == len(b"content")


def test_a_stack_is_its_layers_topmost_first_by_short_names(layout: Layout, layers: Layers) -> None:
    tars = [archive([file(str(number))]) for number in range(3)]
    chain = ""
    for tar in tars:
        chain = layers.unpack(io.BytesIO(tar), "", digest(tar), chain)
    assert chain == chain_ids([digest(tar) for tar in tars])[-1]
    assert [sorted(os.listdir(path)) for path in Layers(layout, Content(layout)).lower_dirs(chain)] == [["2"], ["1"], ["0"]]
    assert all(len(path.name) == 26 and path.parent == layout.links for path in layers.lower_dirs(chain))
    with pytest.raises(NotFound):
        layers.unpack(io.BytesIO(tars[0]), "", digest(tars[0]), "sha256:" + "9" * 64)


@pytest.mark.parametrize("move", [False, True])
def test_an_upper_directory_becomes_a_layer(layers: Layers, tmp_path: Path, move: bool) -> None:
    base = archive([file("f"), file("g")])
    below = layers.unpack(io.BytesIO(base), "", digest(base), "")
    upper = tmp_path / "root" / "upper"
    upper.mkdir()
    (upper / "new").write_bytes(b"123")
    os.mknod(upper / "f", stat.S_IFCHR, 0)
    committed = layers.commit(upper, below, move=move)
    assert committed.diff_id == committed.blob_digest
    assert layers.size(committed.chain_id) == 3
    top = layers.lower_dirs(committed.chain_id)[0]
    assert ((top / "new").read_bytes(), (top / "f").lstat().st_rdev) == (b"123", 0)
    assert upper.exists() != move
    with tarfile.open(fileobj=io.BytesIO(layers._content.read(committed.blob_digest))) as tar:
        assert tar.getnames() == [".wh.f", "new"]


def reboot(layout: Layout) -> None:
    """As if the machine had gone down since: every layer is of another boot."""
    for path in layout.layers.glob("*/layer.json"):
        layer = msgspec.json.decode(path.read_bytes(), type=Layer)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(layer, boot="another")))


def test_layers_that_may_have_lost_files_with_the_machine_are_not_believed(layout: Layout, layers: Layers) -> None:
    tars = [archive([file(str(number))]) for number in range(4)]
    chains = list(chain_ids([digest(tar) for tar in tars[:3]]))
    parent = ""
    for tar in tars[:3]:
        parent = layers.unpack(io.BytesIO(tar), "", digest(tar), parent)
    alone = layers.unpack(io.BytesIO(tars[3]), "", digest(tars[3]), "")
    layers.settle(chains[:1])
    layers.settle([chains[2], alone])  # in a stack, what is below counts, too
    reboot(layout)
    after = Layers(layout, Content(layout))
    assert set(after.chains()) == {chains[0], alone}
    assert {f"sha256:{path.name}" for path in layout.layers.iterdir()} == {chains[0], alone}


def test_what_is_no_layer_is_removed_at_the_start(layout: Layout, layers: Layers) -> None:
    tar = archive([file("f")])
    layers.unpack(io.BytesIO(tar), "", digest(tar), "")
    shutil.copytree(layout.layers / digest(tar)[7:], layout.layers / ("1" * 64))
    (layout.layers / ("2" * 64) / "diff").mkdir(parents=True)
    shutil.rmtree(layout.links)
    after = Layers(layout, Content(layout))
    assert after.chains() == [digest(tar)]
    assert os.listdir(layout.layers) == [digest(tar)[7:]]
    assert after.lower_dirs(digest(tar))[0].is_dir()


def test_layers_go_but_not_those_that_others_stand_on(layout: Layout, layers: Layers, tmp_path: Path) -> None:
    tars = [archive([file(str(number))]) for number in range(3)]
    first = layers.unpack(io.BytesIO(tars[0]), "", digest(tars[0]), "")
    second = layers.unpack(io.BytesIO(tars[1]), "", digest(tars[1]), first)
    third = layers.unpack(io.BytesIO(tars[2]), "", digest(tars[2]), "")
    assert layers.unneeded({second}) == [third]
    for chain in layers.unneeded(set()):
        layers.discard(chain, tmp_path)
    assert layers.chains() == os.listdir(layout.layers) == os.listdir(layout.links) == []
    assert (tmp_path / first[7:] / "diff/0").exists()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    netns.mount("tmpfs", small, "tmpfs", options="size=1m")
    try:
        layout = Layout(small / "root", small / "run")
        tar = archive([item("big", data=os.urandom(2 << 20))])
        with pytest.raises(EngineError, match="failed to register layer: big no space left on device"):
            Layers(layout, Content(layout)).unpack(io.BytesIO(tar), "", digest(tar), "")
        assert list(layout.temporary.iterdir()) == []
    finally:
        netns.unmount(small)
