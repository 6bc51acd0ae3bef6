"""Container images made of a few files, as archives: a layer, `docker save`'s format, an OCI layout; must know no loader."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class Link:
    """A symbolic link, or a hard one."""

    target: str
    is_hard: bool = False


@dataclass(frozen=True)
class Directory:
    """A directory."""

    mode: int = 0o755


Files: TypeAlias = Mapping[str, bytes | Link | Directory]


def layer_tar(files: Files) -> bytes:
    """A layer: the same files make the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, what in files.items():
            item = tarfile.TarInfo(path)
            item.mode = 0o755
            match what:
                case bytes():
                    item.size = len(what)
                    tar.addfile(item, io.BytesIO(what))
                    continue
                case Link():
                    item.type, item.linkname = tarfile.LNKTYPE if what.is_hard else tarfile.SYMTYPE, what.target
                case Directory():
                    item.type, item.mode = tarfile.DIRTYPE, what.mode
            tar.addfile(item)
    return buffer.getvalue()


def busybox_files() -> Files:
    """A static busybox with its commands, and a user database."""
    program = Path(sys.executable).parent / "busybox"
    commands = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    return {
        **{name: Directory() for name in ("bin", "etc", "root")},
        "tmp": Directory(0o1777),
        "bin/busybox": program.read_bytes(),
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
        **{f"bin/{name}": Link("busybox") for name in commands if name != "busybox"},
    }


def gzipped(data: bytes) -> bytes:
    """Compressed, the same bytes every time."""
    return gzip.compress(data, 6, mtime=0)


def image_config(layers: Sequence[bytes], **more: object) -> bytes:
    """The config of an image of these layers, which are plain archives."""
    found = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]}} | more
    return json.dumps(found | {"rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}}).encode()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image_tar(layers: Sequence[Files], tags: Sequence[str] = (), **config: object) -> bytes:
    """`docker save`'s archive of one image (manifest.json)."""
    tars = [layer_tar(files) for files in layers]
    described = image_config(tars, **config)
    name = f"{hashlib.sha256(described).hexdigest()}.json"
    paths = [f"{hashlib.sha256(tar).hexdigest()}/layer.tar" for tar in tars]
    manifest = [{"Config": name, "RepoTags": list(tags) or None, "Layers": paths}]
    return layer_tar({name: described, "manifest.json": json.dumps(manifest).encode()} | dict(zip(paths, tars, strict=True)))


def oci_tar(layers: Sequence[Files], tag: str = "", **config: object) -> bytes:
    """An OCI image layout of one image, as an archive."""
    tars = [layer_tar(files) for files in layers]
    blobs: dict[str, bytes] = {}

    def descriptor(media_type: str, data: bytes, **more: object) -> dict[str, object]:
        blobs[f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"] = data
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": digest_of(data), "size": len(data)} | more

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", image_config(tars, **config)),
        "layers": [descriptor("layer.v1.tar+gzip", gzipped(tar)) for tar in tars],
    }
    named = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
    index = {"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", json.dumps(manifest).encode(), **named)]}
    layout = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
    return layer_tar(layout | blobs)
