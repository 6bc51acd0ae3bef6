"""Finding repositories by a word in their names: Docker Hub's search, and other registries' catalogues; must not know images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlencode

from runtime.errors import EngineError, InvalidParameter, Unauthorized
from runtime.images.reference import parse_reference
from runtime.images.registry.auth import Credentials
from runtime.images.registry.login import HUB_NAMES
from runtime.images.registry.refusals import Protocol, Refusal
from runtime.images.registry.registries import Registries
from runtime.images.registry.repository import Repository, next_page, read_names
from runtime.images.registry.settings import Endpoint
from runtime.images.registry.transport import Request, read_all, read_error

MAX_ANSWER = 8 << 20
MOST_FOUND = 100
DEFAULT_FOUND = 25
_FILTERS = frozenset({"is-official", "is-automated", "stars"})


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A repository that a search found."""

    name: str
    description: str = ""
    is_official: bool = False
    is_automated: bool = False
    star_count: int = 0


async def search(
    registries: Registries,
    term: str,
    limit: int = 0,
    filters: dict[str, list[str]] | None = None,
    credentials: Credentials | None = None,
) -> list[SearchResult]:
    """Repositories by a word in their names; "HOST/word" asks another registry than Docker Hub. Raises InvalidParameter, .."""
    wanted = _read_filters(filters or {})
    limit = limit or DEFAULT_FOUND
    if not 1 <= limit <= MOST_FOUND:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, {MOST_FOUND}]")
    first, slash, rest = term.partition("/")
    if slash and first not in HUB_NAMES and (set(".:") & set(first) or first == "localhost"):
        found = await _catalogue(registries, first, rest, credentials)
    else:
        found = await _ask_hub(registries, rest if slash and first in HUB_NAMES else term, limit)
    return [result for result in found if _matches(result, wanted)][:limit]


async def _ask_hub(registries: Registries, term: str, limit: int) -> list[SearchResult]:
    endpoint = Endpoint(registries.settings.index.rstrip("/"), may_be_plain=registries.settings.index.startswith("http://"))
    query = urlencode({"q": term.removeprefix("library/"), "n": limit})
    response = await registries.connections.transport.open(endpoint, Request("GET", f"{endpoint.url}/v1/search?{query}"))
    if response.status_code != 200:
        await read_error(response)
        raise EngineError(f"Unexpected status code {response.status_code}")
    try:
        return [_result(each) for each in json.loads(await read_all(response, MAX_ANSWER))["results"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Protocol(f"{endpoint.host} answers what is no list of results") from error


async def _catalogue(registries: Registries, host: str, term: str, credentials: Credentials | None) -> list[SearchResult]:
    parse_reference(f"{host}/x")
    endpoints = registries.settings.endpoints(host, for_pull=True)
    everything = Repository(registries.connections, endpoints, "", ("registry:catalog:*",), credentials)

    async def ask(endpoint: Endpoint) -> list[str]:
        found: list[str] = []
        path: str | None = "_catalog?n=1000"
        while path is not None and len(found) < 100_000:
            response = await everything.open(endpoint, "GET", f"{endpoint.url}/v2/{path}")
            link = response.headers.get("link", "")
            found += read_names(await read_all(response, MAX_ANSWER), "repositories")
            path = next_page(link, "_catalog")
        return found

    try:
        names = await everything.anywhere(ask)
    except Refusal as refusal:
        raise (Unauthorized if refusal.status == 401 else EngineError)(str(refusal)) from refusal
    return [SearchResult(f"{host}/{name}") for name in names if term in name]


def _read_filters(filters: dict[str, list[str]]) -> dict[str, list[str]]:
    for name, values in filters.items():
        if name not in _FILTERS:
            raise InvalidParameter(f"invalid filter '{name}'")
        good = str.isdecimal if name == "stars" else ("true", "false", "1", "0").__contains__
        if bad := [value for value in values if not good(value)]:
            raise InvalidParameter(f"invalid filter '{name}={bad}'")
    return filters


def _matches(result: SearchResult, filters: dict[str, list[str]]) -> bool:
    def agrees(name: str, value: bool) -> bool:
        return all((wish in ("true", "1")) == value for wish in filters.get(name, ()))

    stars = all(result.star_count >= int(least) for least in filters.get("stars", ()))
    return agrees("is-official", result.is_official) and agrees("is-automated", result.is_automated) and stars


def _result(found: dict[str, object]) -> SearchResult:
    stars = found.get("star_count")
    return SearchResult(
        str(found.get("name") or ""),
        str(found.get("description") or ""),
        is_official=found.get("is_official") is True,
        is_automated=found.get("is_automated") is True,
        star_count=stars if isinstance(stars, int) else 0,
    )
