"""The table of routes: which path is whose, and what is said to all others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from runtime.docker_api import archives, containers, image_transfers, images, networks, refused, system
from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Json, Query, Request, Response
from runtime.docker_api.router import ROUTES, Handler, Router
from runtime.errors import InvalidParameter

NO_ENGINE = cast("Backend", None)


def asked(method: str, path: str, version: tuple[int, int] = (1, 50), body: bytes = b"", content_type: str = "") -> Request:
    async def given() -> AsyncIterator[bytes]:
        if body:
            yield body

    headers = {"content-type": content_type} if content_type else {}
    return Request(method, path, version, Query(), headers, given())


async def told(response: Response) -> Any:
    assert isinstance(response, Json)
    return json.loads(json.dumps(response.document))


@pytest.mark.parametrize(
    ("method", "path", "handler", "arguments"),
    [
        ("GET", "/_ping", system.ping, {}),
        ("HEAD", "/_ping", system.ping, {}),
        ("POST", "/containers/create", containers.create, {}),
        ("DELETE", "/containers/web", containers.remove, {"name": "web"}),
        ("HEAD", "/containers/web/archive", archives.stat, {"name": "web"}),
        ("GET", "/images/get", image_transfers.save, {}),
        ("GET", "/images/localhost:5000/a/b:c/get", image_transfers.save, {"name": "localhost:5000/a/b:c"}),
        ("GET", "/images/a/json/json", images.inspect, {"name": "a/json"}),
        ("POST", "/images/localhost:5000/a/b/push", image_transfers.push, {"name": "localhost:5000/a/b"}),
        ("DELETE", "/images/sha256:ab", images.remove, {"name": "sha256:ab"}),
        ("POST", "/networks/create", networks.create, {}),
        ("GET", "/networks/a.b", networks.inspect, {"id": "a.b"}),
        ("POST", "/swarm/init", refused.no_swarm, {"verb": "init"}),
        ("GET", "/services", refused.swarm, {"kind": "services", "rest": ""}),
        ("GET", "/nodes/x/y", refused.swarm, {"kind": "nodes", "rest": "/x/y"}),
        ("GET", "/plugins/a/b/json", refused.plugin, {"name": "a/b"}),
    ],
)
async def test_a_path_leads_to_its_handler(method: str, path: str, handler: Handler, arguments: dict[str, str]) -> None:
    found: list[tuple[Handler, dict[str, str]]] = []

    def spied(of: Handler) -> Handler:
        async def handle(_: Backend, request: Request) -> Response:
            found.append((of, dict(request.arguments)))
            return Json(None)

        return handle

    router = Router(NO_ENGINE, tuple((method, pattern, spied(handler)) for method, pattern, handler in ROUTES))
    await router.answer(asked(method, path))
    assert found == [(handler, arguments)]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("PATCH", "/containers/json"),
        ("GET", "/containers/a/b/json"),
        ("OPTIONS", "/info"),
        ("GET", ""),
        ("GET", "/x\n"),
    ],
)
async def test_what_is_in_no_row_is_not_found(method: str, path: str) -> None:
    assert await Router(NO_ENGINE).answer(asked(method, path)) == Json({"message": "page not found"}, 404)


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ((1, 51), "client version 1.51 is too new. Maximum supported API version is 1.50"),
        ((1, 23), "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade"),
        ((2, 0), "client version 2.0 is too new"),
    ],
)
async def test_a_client_of_another_time_is_told_which_versions_there_are(version: tuple[int, int], text: str) -> None:
    response = await Router(NO_ENGINE).answer(asked("GET", "/info", version))
    assert isinstance(response, Json)
    assert response.status == 400
    assert (await told(response))["message"].startswith(text)


@pytest.mark.parametrize("version", [(1, 24), (1, 41), (1, 50)])
async def test_ping_answers_every_version_that_is_supported(version: tuple[int, int]) -> None:
    response = await Router(NO_ENGINE).answer(asked("GET", "/_ping", version))
    assert response == await system.ping(NO_ENGINE, asked("GET", "/_ping"))


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("application/json", b"{", "invalid JSON"),
        ("application/json", b'{"Cmd": 5}', "Cmd"),
        ("text/plain", b"{}", "unsupported Content-Type header"),
        ("", b"{}", "unsupported Content-Type header"),
        ("application/json", b"[" * 100_000, ""),
        ("application/json", b" " * (5 << 20), "request body too large"),
    ],
)
async def test_a_body_that_makes_no_sense_is_the_clients_fault(content_type: str, body: bytes, text: str) -> None:
    request = asked("POST", "/containers/create", body=body, content_type=content_type)
    response = await Router(NO_ENGINE).answer(request)
    assert isinstance(response, Json)
    assert response.status == 400
    assert text in (await told(response))["message"]


async def test_a_json_content_type_may_have_a_charset_and_an_empty_body_is_an_empty_object() -> None:
    typed = "Application/JSON; charset=utf-8"
    assert await asked("POST", "/x", body=b'{"a":1}', content_type=typed).decoded(dict[str, int]) == {"a": 1}
    assert await asked("POST", "/x").decoded(dict[str, int]) == {}


async def test_an_error_that_nobody_foresaw_is_a_status_500_with_its_text() -> None:
    async def fail(_: Backend, request: Request) -> Response:
        raise ZeroDivisionError("by nothing")

    response = await Router(NO_ENGINE, (("GET", "/x", fail),)).answer(asked("GET", "/x"))
    assert response == Json({"message": "by nothing"}, 500)


async def test_what_docker_has_and_we_have_not_says_what_to_do_instead() -> None:
    answers = {
        path: await Router(NO_ENGINE).answer(asked("POST", path))
        for path in ("/grpc", "/session", "/swarm/init", "/services/create")
    }
    assert all(isinstance(answer, Json) and answer.status in (404, 501, 503) for answer in answers.values())
    assert "DOCKER_BUILDKIT=0" in (await told(answers["/grpc"]))["message"]
    assert "swarm manager" in (await told(answers["/services/create"]))["message"]


def test_the_corpus_of_routes_has_no_row_twice() -> None:
    rows = [(method, pattern) for method, pattern, _ in ROUTES]
    assert len(rows) == len(set(rows))


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameter):
        Query({"t": ["1.5"]}).number("t")
