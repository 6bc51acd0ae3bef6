"""GET /events: what happens, as lines, from a time on or up to one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Lines, Request, Response
from runtime.docker_api.filters import Filters, parse_filters, parse_moment
from runtime.docker_api.iterating import closing

if TYPE_CHECKING:
    from runtime.events import Event

FILTERS = frozenset(
    {
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "label!",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    }
)
_S = 1_000_000_000


async def events(engine: Backend, request: Request) -> Response:
    """Begins listening at once; without `since` nothing of the past is told."""
    query = request.query
    filters = parse_filters(query.text("filters"), FILTERS)
    since = parse_moment(query.text("since")) if query.text("since") else None
    until = parse_moment(query.text("until")) if query.text("until") else None
    told = _past_and_live(engine, since, until)
    return Lines(_rendered(told, filters), at_once=True)


def _past_and_live(engine: Backend, since_ns: int | None, until_ns: int | None) -> AsyncIterator[Event]:
    """What is kept of that time and what is still to come of it; the listener is there when this returns."""
    live = engine.events.listen()
    end = time.time_ns()
    past = engine.events.past(since_ns, end if until_ns is None else min(until_ns, end)) if since_ns is not None else []
    return _until(past, live, until_ns)


async def _until(past: list[Event], live: AsyncIterator[Event], until_ns: int | None) -> AsyncIterator[Event]:
    left_s = None if until_ns is None else (until_ns - time.time_ns()) / _S
    async with closing(live):
        for event in past:
            yield event
        if left_s is not None and left_s <= 0:
            return
        limit = None if left_s is None else asyncio.get_running_loop().time() + left_s
        while True:
            try:
                async with asyncio.timeout_at(limit):
                    event = await anext(live)
            except TimeoutError:
                return
            yield event


async def _rendered(told: AsyncIterator[Event], filters: Filters) -> AsyncIterator[dict[str, Any]]:
    async with closing(told):
        async for event in told:
            if matches(event, filters):
                yield event_json(event)


def matches(event: Event, filters: Filters) -> bool:
    """Whether somebody who asked so wants to hear of it."""
    kind, attributes = event.type, event.attributes
    return (
        filters.is_one("type", (kind,))
        and filters.is_one("event", (event.action, event.action.partition(":")[0]))
        and filters.is_one("scope", ("local",))
        and filters.labels(attributes)
        and _of_kind("container", event, filters, (attributes.get("name", ""),))
        and _of_kind("network", event, filters, (attributes.get("name", ""),))
        and _of_kind("volume", event, filters, ())
        and _of_image(event, filters)
        and not any(key in filters for key in ("config", "daemon", "node", "plugin", "secret", "service"))
    )


def _of_kind(kind: str, event: Event, filters: Filters, names: tuple[str, ...]) -> bool:
    """Event of the thing of that kind, by name or the beginning of its id."""
    return kind not in filters or (event.type == kind and filters.begins(kind, (event.actor, *names)))


def _of_image(event: Event, filters: Filters) -> bool:
    """Events of the image, and of the containers made of it."""
    if "image" not in filters:
        return True
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    return event.type in ("image", "container") and filters.is_one("image", (event.actor, name, _untagged(name)))


def _untagged(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition("@")[0].partition(":")[0]


def event_json(event: Event) -> dict[str, Any]:
    """An event, with the three keys that older clients read."""
    old: dict[str, Any] = {}
    if event.type in ("container", "image"):
        old = {"status": event.action, "id": event.actor}
    if event.type == "container" and "image" in event.attributes:
        old["from"] = event.attributes["image"]
    return old | {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor, "Attributes": dict(event.attributes)},
        "scope": "local",
        "time": event.time_ns // _S,
        "timeNano": event.time_ns,
    }
