"""The compiled programs that are committed are those of the source beside them."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import sysconfig
from pathlib import Path

import pytest

from flanneld.backends.udp.ebpf.kernel_path import OBJECT

SOURCE = OBJECT.with_suffix(".c")
COMPILER = "clang-14"
"""Another version makes other instructions."""
HEADERS = Path("/usr/include/bpf/bpf_helpers.h")
LARGEST = 64 << 10
"""Bytes, with the types that the kernel wants to see, without the debugger's."""

ELF_HEADER = struct.Struct("<40xQ10xHHH")
"""Elf64_Ehdr: where the section headers start, their size, their number, the place of the one with their names."""
SECTION = struct.Struct("<II8x8xQQ")
"""Elf64_Shdr: name, type; offset, size."""


def sections(image: bytes) -> dict[str, bytes]:
    """The sections of an ELF file by name."""
    start, size, count, names_at = ELF_HEADER.unpack_from(image)
    headers = [SECTION.unpack_from(image, start + place * size) for place in range(count)]
    names = image[headers[names_at][2] :]
    return {
        names[name : names.index(b"\0", name)].decode(): image[offset : offset + length] for name, _kind, offset, length in headers
    }


def digest() -> str:
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def test_the_object_says_that_it_was_compiled_from_this_source() -> None:
    assert sections(OBJECT.read_bytes())["source"].rstrip(b"\0").decode() == digest()


def test_the_object_is_small() -> None:
    assert OBJECT.stat().st_size < LARGEST
    assert not [name for name in sections(OBJECT.read_bytes()) if name.startswith(".debug")]


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no {COMPILER}")
@pytest.mark.skipif(not HEADERS.exists(), reason=f"no {HEADERS} (Debian package libbpf-dev)")
def test_the_object_has_the_instructions_that_the_source_gives(tmp_path: Path) -> None:
    compiled = tmp_path / OBJECT.name
    include = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH')}"
    options = ("-Wall", "-Werror", "-O2", "-g", "-target", "bpf", include, f'-DSOURCE="{digest()}"')
    subprocess.run([COMPILER, *options, "-c", SOURCE, "-o", compiled], check=True)
    committed, fresh = sections(OBJECT.read_bytes()), sections(compiled.read_bytes())
    assert {name: committed[name] for name in ("tc", ".maps", "source", "license")} == {
        name: fresh[name] for name in ("tc", ".maps", "source", "license")
    }
