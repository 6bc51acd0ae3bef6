"""What images are called: "busybox", "localhost:5000/team/app:1.2", "busybox@sha256:.." (the grammar of
github.com/distribution/reference); must not know which images there are, nor how a registry is reached.

Kept canonical ("docker.io/library/busybox:latest"), shown familiar ("busybox:latest").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from runtime.errors import InvalidParameter

HUB = "docker.io"
"""The registry that a name without a host means."""
DEFAULT_TAG = "latest"
MAX_NAME = 255
"""Characters of host and path."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_OFFICIAL = "library/"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository at a registry, and what of it: a tag, a digest, both, or neither ("" each)."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Canonical, without tag and digest: "docker.io/library/busybox"."""
        return f"{self.host}/{self.path}"

    @property
    def name(self) -> str:
        """Familiar, without tag and digest: "busybox"."""
        short = self.path.removeprefix(_OFFICIAL)
        if "/" in short:
            short = self.path
        # A user of the Hub may be called as a host is: left out, "docker.io/" would be missed.
        return short if _split_host(short) == (self.host, self.path) else self.repository

    @property
    def familiar(self) -> str:
        """As people see it: "busybox:latest", "localhost:5000/a/b:c", "busybox@sha256:..."."""
        return self.name + self._rest

    @property
    def canonical(self) -> str:
        """As it is kept: "docker.io/library/busybox:latest"."""
        return self.repository + self._rest

    @property
    def _rest(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """The same, with "latest" if it says neither tag nor digest."""
        return self if self.tag or self.digest else self.with_tag(DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        """Another tag of this repository, by no digest; raises InvalidParameter."""
        if TAG.fullmatch(tag) is None:
            raise InvalidParameter("invalid tag format")
        return replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> Reference:
        """What has this digest in the repository, whatever its tag; raises InvalidParameter."""
        return replace(self, tag="", digest=check_digest(digest))


def parse_reference(text: str) -> Reference:
    """Take a name apart; raises InvalidParameter."""
    if _ID.fullmatch(text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, at, digest = text.partition("@")
    if at and DIGEST.fullmatch(digest) is None:
        raise InvalidParameter("invalid reference format")
    name, tag = _split_tag(rest)
    host, path = _split_host(name)
    if len(host) + 1 + len(path) > MAX_NAME:
        raise InvalidParameter(f"repository name must not be more than {MAX_NAME} characters")
    if _HOST.fullmatch(host) is None or (tag is not None and TAG.fullmatch(tag) is None):
        raise InvalidParameter("invalid reference format")
    if _PATH.fullmatch(path) is None:
        if _PATH.fullmatch(path.lower()):
            raise InvalidParameter(f"invalid reference format: repository name ({path}) must be lowercase")
        raise InvalidParameter("invalid reference format")
    return Reference(host, path, tag or "", digest)


def _split_tag(text: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag; one before it, a port."""
    head, colon, tail = text.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (text, None)


def _split_host(name: str) -> tuple[str, str]:
    """The first component is a host if it looks like one: a dot, a port, "localhost", capitals."""
    first, slash, rest = name.partition("/")
    if not slash or not (set(".:[") & set(first) or first == "localhost" or first != first.lower()):
        first, rest = HUB, name
    if first in (HUB, "index.docker.io"):
        first, rest = HUB, rest if "/" in rest else f"{_OFFICIAL}{rest}"
    return first, rest


def check_digest(text: str) -> str:
    """The text, which is a digest; raises InvalidParameter."""
    if DIGEST.fullmatch(text) is None:
        raise InvalidParameter(f"invalid digest {text[:100]!r}, expected sha256: and 64 hexadecimal digits")
    return text
