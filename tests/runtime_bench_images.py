"""What images cost: a pull from a registry on loopback beside skopeo, a layer of many files unpacked beside GNU tar.

Must not know how any of it is done. All times are in seconds.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from lab import LabError
from runtime.images.content import Content
from runtime.images.layers import Layers
from runtime.layout import Layout
from runtime_bench_rivals import VENV, Rival
from runtime_images import digest_of, layer_tar
from runtime_registry import RemoteImage, registry

LAYERS, LAYER_BYTES = 4, 25_000_000
FILES, FILE_BYTES = 20_000, 3000
SKOPEO = VENV / "bin/skopeo"


def pulls(directory: Path, ours: Rival, rounds: int) -> dict[str, list[float]]:
    """100 MB that cannot be compressed: by ours, which also unpacks and syncs them, and copied to a directory by skopeo."""
    image = RemoteImage.of(*({f"data-{number}": os.urandom(LAYER_BYTES)} for number in range(LAYERS)))
    found: dict[str, list[float]] = {"tartan": [], "skopeo": []}
    with ExitStack() as stack:
        remote = ours.host.call(stack.enter_context, registry(directory / "registry"))
        ours.host.call(remote.put_image, "big", "latest", image)
        name = f"{remote.address}/big:latest"
        for number in range(rounds + 1):
            took = {"tartan": _timed(ours, "pull", "--quiet", name), "skopeo": _copied(ours, directory / "copy", name)}
            ours.call("rmi", name)
            for who, seconds in took.items() if number else ():
                found[who].append(seconds)
    return found


def _timed(rival: Rival, *arguments: str) -> float:
    os.sync()
    start = time.perf_counter()
    rival.call(*arguments)
    return time.perf_counter() - start


def _copied(rival: Rival, target: Path, name: str) -> float:
    """By skopeo, on the same host."""
    os.sync()
    command = [str(SKOPEO), "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", f"docker://{name}", f"dir:{target}"]
    start = time.perf_counter()
    done = rival.host.call(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    took = time.perf_counter() - start
    shutil.rmtree(target, ignore_errors=True)
    if done.returncode:
        raise LabError(f"skopeo: {done.stderr.strip()}")
    return took


def unpackings(directory: Path, rounds: int) -> dict[str, list[float]]:
    """A compressed layer of many small files: by ours, which checks its digest too, and by GNU tar."""
    text = os.urandom(FILE_BYTES // 2).hex().encode()
    plain = layer_tar({f"usr/{number % 100}/file-{number}": text for number in range(FILES)})
    blob = directory / "layer.tar.gz"
    blob.write_bytes(gzip.compress(plain, 6))
    layout = Layout(directory / "store", directory / "run")
    layers = Layers(layout, Content(layout))
    found: dict[str, list[float]] = {"tartan": [], "GNU tar": []}
    trash = directory / "trash"
    for number in range(rounds + 1):
        target = directory / "out"
        for each in (target, trash):
            each.mkdir()
        os.sync()
        ways: dict[str, Callable[[], object]] = {
            "tartan": partial(layers.unpack, blob, "", digest_of(plain), ""),
            "GNU tar": partial(subprocess.run, ["tar", "-xzf", blob, "-C", target], check=True),
        }
        for who in sorted(ways, reverse=bool(number % 2)):
            start = time.perf_counter()
            ways[who]()
            if number:
                found[who].append(time.perf_counter() - start)
        layers.discard(digest_of(plain), trash)
        for each in (target, trash):
            shutil.rmtree(each)
    return found
