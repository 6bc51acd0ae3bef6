"""ADD's other meaning: a file of the context that is a tar archive, compressed or not, is unpacked; must not know where."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from typing import BinaryIO

from runtime.build.context import LIMITS
from runtime.build.sources import Source
from runtime.images.decompress import compression, decompressed
from runtime.images.extract import extract
from runtime.images.limits import BadArchive, limited
from runtime.linux.inroot import open_in, reopen

_HEAD_BYTES = 512


def open_archive(source: Source) -> BinaryIO | None:
    """The file, if it is an archive; None: it is anything else. A compressed file that holds no archive is none either."""
    with_links = open_in(source.tree.root, source.path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(with_links).st_mode):
            return None  # a fifo would be waited for, a device of the host's read
        file = io.BufferedReader(io.FileIO(reopen(with_links, os.O_RDONLY)))
    finally:
        os.close(with_links)
    if _is_archive(file):
        file.seek(0)
        return file
    file.close()
    return None


def _is_archive(file: BinaryIO) -> bool:
    head = file.read(_HEAD_BYTES)
    if compression(head):
        file.seek(0)
        try:
            head = next(decompressed(file.read), b"")
        except BadArchive:
            return False
    try:
        tarfile.TarInfo.frombuf(head[:_HEAD_BYTES], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def unpack_archive(archive: BinaryIO, directory: int) -> None:
    """Unpack it into an open directory (O_PATH suffices); owners and modes are the archive's. Raises BadArchive, OSError."""
    readable = reopen(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        extract(limited(decompressed(archive.read), archive.tell, LIMITS), readable, LIMITS)
    finally:
        os.close(readable)
