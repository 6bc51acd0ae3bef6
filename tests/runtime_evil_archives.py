"""Layers that want out of their directory, or to exhaust who unpacks them; must not know the unpacker."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any, TypeAlias

Entries: TypeAlias = list[tuple[tarfile.TarInfo, bytes]]


def item(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"", **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """One entry; `fields`: of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o777
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive(entries: Entries) -> bytes:
    """As an archive, whatever tarfile thinks of it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return item(name, data=b"evil")


def symlink(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return item(name, tarfile.SYMTYPE, to)


def hard_link(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return item(name, tarfile.LNKTYPE, to)


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return item(name, tarfile.DIRTYPE, **fields)


def names(outside: str) -> dict[str, Entries]:
    """Names that lead out, or nowhere."""
    return {
        "parent": [file("../evil")],
        "parent of a child": [directory("a"), file("a/../../evil")],
        "absolute": [file(f"{outside}/evil")],
        "absolute, twice": [file(f"/{outside}/evil")],
        "two dots as a directory": [directory("..")],
        "a file without a name": [file(".")],
        "parent in a long name": [file("x/" * 100 + "../" * 110 + "evil")],
        "a name too long for a file": [file("n" * 300)],
        "a name too long for a path": [file("d/" * 2500 + "evil")],
        "a file in a file": [file("a"), file("a/b")],
        "a zero byte": [item("a", pax_headers={"path": "a\0b"})],
    }


def links(outside: str) -> dict[str, Entries]:
    """Links out, and what would go through them."""
    return {
        "a file through an absolute symlink": [symlink("s", outside), file("s/evil")],
        "a file through a relative symlink": [symlink("s", "../" * 20 + outside[1:]), file("s/evil")],
        "a file through two symlinks": [symlink("b", ".."), symlink("a", "b/.."), file("a/evil")],
        "a file through procfs": [symlink("s", "/proc/self/root"), file(f"s{outside}/evil")],
        "a file through a working directory": [symlink("s", "/proc/self/cwd"), file("s/evil")],
        "a file in the place of a symlink": [symlink("s", f"{outside}/secret"), file("s")],
        "a directory in the place of a symlink": [symlink("s", outside), directory("s", mode=0o777), file("s/evil")],
        "a directory behind a symlink": [symlink("s", outside), directory("s/evil")],
        "a symlink in the place of a directory": [file("d/a"), symlink("d", outside), file("d/evil"), directory("d/b")],
        "a symlink behind a symlink": [symlink("s", outside), symlink("s/evil", "/etc/passwd")],
        "a device behind a symlink": [symlink("s", outside), item("s/evil", tarfile.CHRTYPE, devmajor=1, devminor=3)],
        "a loop of symlinks": [symlink("a", "b"), symlink("b", "a"), file("a/evil")],
        "a symlink to nothing": [symlink("s", f"{outside}/new"), file("s/evil")],
        "a hard link out": [hard_link("h", "../" * 20 + f"{outside[1:]}/secret"), file("h")],
        "an absolute hard link": [hard_link("h", f"{outside}/secret"), file("h")],
        "a hard link through a symlink": [symlink("s", outside), hard_link("h", "s/secret"), file("h")],
        "a hard link to a symlink": [symlink("s", f"{outside}/secret"), hard_link("h", "s"), file("h")],
        "a hard link to a directory": [directory("d"), hard_link("h", "d")],
        "a hard link to itself": [hard_link("h", "h")],
        "a hard link out, in a pax header": [item("h", tarfile.LNKTYPE, pax_headers={"linkpath": f"../..{outside}/secret"})],
    }


def whiteouts(outside: str) -> dict[str, Entries]:
    """Removals of what is not the layer's."""
    return {
        "a whiteout of nothing": [file(".wh.")],
        "a whiteout of the directory": [file("a/.wh..")],
        "a whiteout of the parent": [file("a/.wh...")],
        "a whiteout behind a symlink": [symlink("s", outside), file("s/.wh.secret")],
        "an opaque directory behind a symlink": [symlink("s", outside), file("s/.wh..wh..opq")],
        "an opaque parent": [file("../.wh..wh..opq")],
        "aufs's own": [file(".wh..wh.plnk/1.2"), file("a/.wh..wh.aufs")],
    }


def claims(outside: str) -> dict[str, Entries]:
    """Attributes, owners and devices."""
    overlay = {"SCHILY.xattr.trusted.overlay.redirect": outside, "SCHILY.xattr.trusted.overlay.opaque": "y"}
    return {
        "overlayfs's attributes": [directory("d", pax_headers=overlay), item("f", pax_headers=overlay)],
        "the owner that means nobody": [item("f", pax_headers={"uid": "4294967295"})],
        "a file in the place of a device": [item("d", tarfile.BLKTYPE, devmajor=8, devminor=0), file("d")],
        "a file in the place of a fifo": [item("p", tarfile.FIFOTYPE), file("p")],
        "a file in a fifo": [item("p", tarfile.FIFOTYPE), file("p/evil")],
        "a device out of range": [item("d", tarfile.CHRTYPE, pax_headers={}, devmajor=0o7777777, devminor=0o7777777)],
        "an unknown type": [item("x", b"Z")],
        "a time after all times": [item("f", pax_headers={"mtime": "9" * 30})],
        "a size of letters": [item("f", pax_headers={"size": "big"})],
    }


def spoilt() -> dict[str, bytes]:
    """Archives that are wrong as such."""
    good = archive([file("a"), directory("d")])
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "s", "GNU.sparse.size": "100"}
    return {
        "no archive": b"evil" * 1000,
        "the first half": good[:700],
        "a wrong checksum": good[:10] + b"x" + good[11:],
        "a negative size": _resealed(good, 124, b"\xff" * 12),
        "a size of 8 exbibytes": _resealed(good, 124, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7),
        "a pax header of a gigabyte": _resealed(archive([item("x", b"x")]), 124, b"10000000000\0"),
        "a pax header with wrong lengths": archive([item("x", b"x", data=b"99 path=evil\n"), file("a")]),
        "a pax header and nothing else": archive([item("x", b"x", data=b"13 path=evil\n")])[:1024],
        "pieces of a sparse file out of order": archive(
            [item("s", data=b"12", pax_headers=sparse | {"GNU.sparse.map": "50,1,0,1"})]
        ),
        "a sparse file of nothing": archive([item("s", pax_headers=sparse | {"GNU.sparse.map": "0,100"})]),
        "a sparse file of an exbibyte": archive(
            [item("s", pax_headers=sparse | {"GNU.sparse.size": str(1 << 60), "GNU.sparse.map": "0,0"})]
        ),
    }


def _resealed(tar: bytes, at: int, field: bytes) -> bytes:
    """With another field in the first header, and the checksum that belongs to it."""
    block = bytearray(tar[:512])
    block[at : at + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + tar[512:]


KINDS: tuple[Callable[[str], dict[str, Entries]], ...] = (names, links, whiteouts, claims)


def corpus(outside: str) -> dict[str, bytes]:
    """Every one by its name; `outside`: an absolute path at which they aim, and where there is a file "secret"."""
    made = {name: archive(entries) for kind in KINDS for name, entries in kind(outside).items()}
    return made | spoilt()
