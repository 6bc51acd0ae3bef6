"""A request's target taken apart: the API's version, the path, the query; must not know which paths there are."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

API_VERSION = (1, 50)
MINIMUM_VERSION = (1, 24)
_VERSION = re.compile(r"/v([0-9]{1,4})\.([0-9]{1,4})(/.*)", re.DOTALL)
_FIELDS = 1000
"""Query parameters; a request with more is refused."""


def split_target(target: str) -> tuple[tuple[int, int], str, dict[str, list[str]]]:
    """(version, path without it, query); ours where none is given. A query that has too many fields is empty."""
    parts = urlsplit(target) if target.startswith("/") and not target.startswith("//") else urlsplit(f"/{target.lstrip('/')}")
    path = unquote(parts.path, errors="replace")
    try:
        query = parse_qs(parts.query, keep_blank_values=True, errors="replace", max_num_fields=_FIELDS)
    except ValueError:
        query = {}
    found = _VERSION.fullmatch(path)
    if found is None:
        return API_VERSION, path, query
    return (int(found[1]), int(found[2])), found[3], query


def text_of(version: tuple[int, int]) -> str:
    """A version as it is written: "1.50"."""
    return f"{version[0]}.{version[1]}"
