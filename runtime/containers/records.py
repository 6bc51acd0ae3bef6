"""Containers' records on disk: one JSON file each, replaced as a whole; must not know what they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from flanneld.log import Log
from runtime.containers.record import Record

NAME = "record.json"
ID = re.compile(r"[0-9a-f]{64}")
log = Log(__name__)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def write_record(directory: Path, record: Record, *, durable: bool = True) -> None:
    """Replace the record in that directory; `durable`: it is on the disk when this returns. Raises OSError."""
    half = directory / f".{NAME}"
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        data = memoryview(_encoder.encode(record))
        while data:
            data = data[os.write(descriptor, data) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(half, directory / NAME)
    if durable:
        sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """What has been made, renamed or deleted in it stays so after power loss; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_record(directory: Path) -> bool:
    """Whether one was ever written whole; power loss makes those that were not synced empty."""
    try:
        return (directory / NAME).stat().st_size > 0
    except FileNotFoundError:
        return False


def read_records(containers: Path) -> Iterator[Record]:
    """Every record below; one that cannot be read is logged and left where it is, for somebody to look at."""
    for directory in sorted(containers.iterdir()) if containers.is_dir() else []:
        if not ID.fullmatch(directory.name) or not has_record(directory):
            continue
        try:
            record = _decoder.decode((directory / NAME).read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            log.error("container's record unreadable", path=directory / NAME, why=error)
            continue
        if record.id == directory.name:
            yield record
