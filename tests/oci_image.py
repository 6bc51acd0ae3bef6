"""A container image without a registry: static busybox and nothing else, as the archive that `docker save` would write.

It serves as pause image and as workload. Must not know who loads it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
from pathlib import Path

IMAGE = "localhost/tartan/busybox:test"
APPLETS = ("cat", "hostname", "httpd", "ip", "mkdir", "ping", "sh", "sleep", "timeout", "wget")
PATH = "PATH=/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's names for what the kernel calls itself."""
MARKS = ("TARTAN_TEST_SESSION",)
"""Variables of ours that containers inherit, so that tests/conftest.py knows a forgotten one when it sees it."""
SERVE = ("sh", "-c", "mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www")
"""A workload: an HTTP server whose only page is the pod's name."""


def write_image(archive: Path, busybox: Path) -> None:
    """Write the archive (github.com/moby/docker-image-spec v1.2, "combined image JSON + filesystem changeset")."""
    layer = _layer(busybox)
    config = json.dumps(_config(layer)).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for path, content in (("layer.tar", layer), (name, config), ("manifest.json", json.dumps(manifest).encode())):
            _add(tar, path, content)


def _config(layer: bytes) -> dict[str, object]:
    marks = [f"{name}={os.environ[name]}" for name in MARKS if name in os.environ]
    machine = platform.machine()
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        # A sleep that is process 1 ignores SIGTERM, and every stop would wait for its grace period.
        "config": {"Entrypoint": ["/bin/sleep"], "Cmd": ["1000000"], "Env": [PATH, *marks], "StopSignal": "SIGKILL"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "tests/oci_image.py"}],
    }


def _layer(busybox: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("bin", "etc", "tmp"):
            _add(tar, directory, b"", kind=tarfile.DIRTYPE)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
        _add(tar, "bin/busybox", busybox.read_bytes())
        for applet in APPLETS:
            _add(tar, f"bin/{applet}", b"", kind=tarfile.SYMTYPE, link="busybox")
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    item = tarfile.TarInfo(path)
    item.type, item.linkname, item.size, item.mode = kind, link, len(content), 0o755
    tar.addfile(item, io.BytesIO(content))
