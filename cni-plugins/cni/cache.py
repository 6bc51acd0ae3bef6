"""What a runtime remembers of its attachments, in libcni's place and format, so that either can go on where the other stopped.

    CACHE/results/NETWORK-CONTAINERID-IFNAME     {"kind": "cniCacheV1", "containerId", "ifName", "networkName", "netns",
                                                  "config": base64, "cniArgs": [[k, v]], "capabilityArgs", "result"}

Source: what libcni reads and writes (netns: since 1.2), seen on 1.1.2; the spec asks for a cache only. Must not know how plugins
are called.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni.ledger import Key
from cni.result import Json
from cni.spec import CniError, Code, check_container_id, check_ifname, parse_args
from flanneld import FlanneldError

DIRECTORY = Path("/var/lib/cni")
KIND = "cniCacheV1"


class CacheError(FlanneldError):
    """The cache cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a runtime says about one interface of one container."""

    container_id: str
    netns: str
    """A path; may be empty at DEL."""
    ifname: str = "eth0"
    args: Mapping[str, str] = field(default_factory=dict)
    """CNI_ARGS."""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """Capability -> what the runtime supplies; a plugin gets those that it declares."""

    def key(self, network: str) -> Key:
        return Key(network, self.container_id, self.ifname)

    def variables(self) -> dict[str, str]:
        """The attachment as plugins are told it."""
        args = ";".join(f"{name}={value}" for name, value in self.args.items())
        return {"CNI_CONTAINERID": self.container_id, "CNI_NETNS": self.netns, "CNI_IFNAME": self.ifname, "CNI_ARGS": args}

    def check(self) -> None:
        """Raise CniError (4) unless plugins can be told this."""
        check_container_id(self.container_id)
        check_ifname(self.ifname)
        args = self.variables()["CNI_ARGS"]
        if "\0" in self.netns + args or parse_args(args) != dict(self.args):
            raise CniError(
                Code.ENVIRONMENT, f"CNI_NETNS {self.netns!r}, CNI_ARGS {args!r}: expected K=V pairs without ';', and no NUL"
            )


@dataclass(frozen=True, slots=True)
class Cached:
    """An attachment that was made and not taken away, as far as anybody wrote it down."""

    network: str
    attachment: Attachment
    config: bytes
    """The network's configuration at ADD; empty when an old libcni wrote this."""
    result: Json | None

    @property
    def key(self) -> Key:
        return self.attachment.key(self.network)


@dataclass(frozen=True, slots=True)
class ResultCache:
    """The files of one cache directory. Safe for threads and processes: a file appears whole."""

    directory: Path = DIRECTORY

    def write(self, cached: Cached) -> None:
        """Remember an attachment, in place of what was known of it; raises CacheError."""
        file = self._file(cached.key)
        with _translated(file):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Beside `results`: libcni takes every file in there for an attachment. Not synced: pods do not outlive a power cut.
            handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=".result-")
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump(_encode(cached), stream)
                os.replace(temporary, file)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise

    def read(self, key: Key) -> Cached | None:
        """What is known of an attachment; None when that is nothing, or garbage. Raises CacheError."""
        file = self._file(key)
        with _translated(file):
            try:
                data = file.read_bytes()
            except FileNotFoundError:
                return None
        told = _object(data)
        if told is not None and "kind" not in told:  # libcni before 0.8 wrote the bare result
            return Cached(key.network, Attachment(key.container_id, "", key.ifname), b"", told)
        cached = _decode(told)
        return cached if cached and cached.key == key else None  # a-b-c may be a, b-c as well as a-b, c

    def drop(self, key: Key) -> None:
        """Forget an attachment, if it is known; raises CacheError."""
        file = self._file(key)
        with _translated(file):
            file.unlink(missing_ok=True)

    def attachments(self, network: str) -> list[Cached]:
        """All that are known of a network; raises CacheError."""
        found = []
        results = self.directory / "results"
        with _translated(results):
            for file in sorted(results.iterdir()) if results.is_dir() else ():
                with suppress(FileNotFoundError, IsADirectoryError):
                    cached = _decode(_object(file.read_bytes()))
                    if cached and cached.network == network:
                        found.append(cached)
        return found

    def _file(self, key: Key) -> Path:
        return self.directory / "results" / f"{key.network}-{key.container_id}-{key.ifname}"


def _encode(cached: Cached) -> dict[str, Any]:
    attachment = cached.attachment
    optional = {
        "netns": attachment.netns,
        "cniArgs": [[name, value] for name, value in attachment.args.items()],
        "capabilityArgs": dict(attachment.capabilities),
        "result": cached.result,
    }
    return {
        "kind": KIND,
        "containerId": attachment.container_id,
        "config": base64.b64encode(cached.config).decode(),
        "ifName": attachment.ifname,
        "networkName": cached.network,
    } | {name: value for name, value in optional.items() if value}


def _decode(told: dict[str, Any] | None) -> Cached | None:
    if told is None or told.get("kind") != KIND:
        return None
    try:
        args = dict(told.get("cniArgs") or ())
        capabilities, result = told.get("capabilityArgs") or {}, told.get("result")
        container_id, ifname, network = (str(told[name]) for name in ("containerId", "ifName", "networkName"))
        attachment = Attachment(container_id, str(told.get("netns") or ""), ifname, args, dict(capabilities))
        return Cached(network, attachment, base64.b64decode(told.get("config") or ""), dict(result) if result else None)
    except (LookupError, TypeError, ValueError):
        return None


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(f"{path}: {error.strerror}") from error
