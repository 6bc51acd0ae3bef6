"""GET /images/json: which images, and a row for each."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from runtime.clock import nanoseconds_of
from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Json, Request, Response
from runtime.docker_api.filters import Filters, parse_filters

if TYPE_CHECKING:
    from runtime.images.image import Image

FILTERS = frozenset({"before", "dangling", "label", "label!", "reference", "since", "until"})
_GLOB = re.compile(r"\*|\?|\[\^?[^\]]+\]|\\.|[^*?\[\\]+|.", re.DOTALL)
_S = 1_000_000_000


async def list_images(engine: Backend, request: Request) -> Response:
    """The newest first; without `all` no intermediate steps of builds."""
    query = request.query
    filters = parse_filters(query.text("filters"), FILTERS)
    if query.text("filter"):  # of clients before API 1.25
        filters = Filters({**filters.values, "reference": (query.text("filter"),)})
    rows = [image_json(image) for image in _choose(engine, filters, everything=query.flag("all"))]
    if "reference" in filters:
        rows = [
            row for row in (_only_matching(row, filters.get("reference")) for row in rows) if row["RepoTags"] or row["RepoDigests"]
        ]
    return Json(rows)


def created_ns(image: Image) -> int:
    """When it was made, in nanoseconds since 1970; 0: nobody knows."""
    try:
        return max(0, nanoseconds_of(image.config.created)) if image.config.created else 0
    except ValueError:
        return 0


def _choose(engine: Backend, filters: Filters, *, everything: bool) -> list[Image]:
    before = min((created_ns(engine.images.find(name)) for name in filters.get("before")), default=None)
    since = max((created_ns(engine.images.find(name)) for name in filters.get("since")), default=None)
    until = filters.moment("until", time.time_ns())
    dangling = filters.flag("dangling", False) if "dangling" in filters else None

    def passes(image: Image) -> bool:
        created = created_ns(image)
        if not everything and is_step(engine, image):
            return False
        return (
            (before is None or created < before)
            and (since is None or created > since)
            and (until is None or created < until)
            and (dangling is None or dangling is not bool(image.tags))
            and filters.labels(image.config.config.labels)
        )

    return sorted((image for image in engine.images.list() if passes(image)), key=created_ns, reverse=True)


def is_step(engine: Backend, image: Image) -> bool:
    """Whether it is a step of a build that went on, which is shown when all are asked for."""
    return not image.tags and not image.digests and bool(engine.images.children(image.id))


def image_json(image: Image) -> dict[str, Any]:
    """An image in a list."""
    return {
        "Id": image.id,
        "ParentId": image.parent,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Created": created_ns(image) // _S,
        "Size": image.size,
        "SharedSize": -1,
        "Labels": image.config.config.labels or None,
        "Containers": -1,
    }


def _only_matching(row: dict[str, Any], patterns: tuple[str, ...]) -> dict[str, Any]:
    """With those names alone that a pattern of `reference` matches."""
    matchers = [glob_expression(pattern) for pattern in patterns]

    def matches(name: str) -> bool:
        return any(matcher.fullmatch(text) for matcher in matchers for text in (name, repository_of(name)))

    return row | {key: [name for name in row[key] if matches(name)] for key in ("RepoTags", "RepoDigests")}


def repository_of(name: str) -> str:
    """A familiar name without tag and digest."""
    head, slash, last = name.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]


def glob_expression(pattern: str) -> re.Pattern[str]:
    """Go's path.Match as a regular expression: * and ? do not match a slash."""
    parts: list[str] = []
    for piece in _GLOB.findall(pattern):
        if piece == "*":
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif len(piece) > 2 and piece[0] == "[":
            parts.append(
                "[" + piece[1:-1].replace("[", r"\[").replace("&&", r"&\&").replace("||", r"|\|").replace("~~", r"~\~") + "]"
            )
        else:
            parts.append(re.escape(piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece))
    try:
        return re.compile("".join(parts))
    except re.error:
        return re.compile(re.escape(pattern))
