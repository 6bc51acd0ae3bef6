"""What the registry client decides by itself: credentials, challenges, addresses, refusals."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from runtime.errors import Forbidden, InvalidParameter, NotFound, Unauthorized, Unavailable
from runtime.images.reference import parse_reference
from runtime.images.registry import Credentials, RegistrySettings, parse_auth
from runtime.images.registry.auth import Challenge, parse_challenges
from runtime.images.registry.login import registry_host
from runtime.images.registry.refusals import pull_error, push_error, read_refusal
from runtime.images.registry.repository import next_page


def _header(document: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def test_credentials_come_in_several_forms() -> None:
    assert parse_auth(_header({"username": "ann", "password": "s"})) == Credentials("ann", "s")
    assert parse_auth(_header({"auth": base64.b64encode(b"ann:a:b").decode()})) == Credentials("ann", "a:b")
    assert parse_auth(_header({"identitytoken": "t", "serveraddress": "x"})) == Credentials("", "", "t", "", "x")
    assert parse_auth(_header({"username": "ann", "password": "ü~?>"}).rstrip("=")) == Credentials("ann", "ü~?>")


@pytest.mark.parametrize("header", ["", "e30=", "e30", "null", "bnVsbA==", "W10=", "%%%", "ä", _header({"auth": "%"})])
def test_no_credentials_and_nonsense_are_nobody(header: str) -> None:
    assert parse_auth(header) is None


def test_secrets_are_not_shown() -> None:
    shown = repr(Credentials("ann", "secret-1", "secret-2", "secret-3"))
    assert "ann" in shown
    assert "secret" not in shown


def test_a_challenge_may_have_commas_in_quotes() -> None:
    header = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push"'
    assert parse_challenges([header]) == (
        Challenge("bearer", "https://auth.example/token", "registry.example", "repository:a/b:pull,push"),
    )


def test_challenges_may_be_several_in_one_header_or_in_many() -> None:
    one = parse_challenges(['Basic realm="a \\"b\\"", Bearer realm=https://c,error="insufficient_scope"'])
    assert one == (Challenge("basic", 'a "b"'), Challenge("bearer", "https://c", error="insufficient_scope"))
    assert [found.scheme for found in parse_challenges(["Negotiate", "", "BASIC realm=x"])] == ["negotiate", "basic"]


def test_a_registry_is_spoken_to_with_tls_unless_it_is_here_or_said_to_be_insecure() -> None:
    settings = RegistrySettings(insecure=("insecure.example:5000", "10.0.0.0/8"))
    for host in ("registry.example", "10.example:5000", "insecure.example", "11.0.0.1"):
        (only,) = settings.endpoints(host, for_pull=True)
        assert (only.url, only.is_verified, only.may_be_plain) == (f"https://{host}", True, False)
    for host in ("localhost:5000", "127.9.9.9", "[::1]:5000", "insecure.example:5000", "10.1.2.3:80"):
        assert [each.url for each in settings.endpoints(host, for_pull=True)] == [f"https://{host}", f"http://{host}"]


def test_mirrors_are_for_pulls_from_the_hub() -> None:
    settings = RegistrySettings(mirrors=("https://mirror.example/hub/",))
    first, second = settings.endpoints("docker.io", for_pull=True)
    assert (first.url, first.is_mirror, second.url, second.is_mirror) == (
        "https://mirror.example/hub",
        True,
        "https://registry-1.docker.io",
        False,
    )
    assert len(settings.endpoints("docker.io", for_pull=False)) == len(settings.endpoints("x.example", for_pull=True)) == 1


@pytest.mark.parametrize("url", ["mirror.example", "ftp://x", "https://", "https://ann:secret@x", "https://x?y"])
def test_a_mirror_that_is_no_address_is_an_error(url: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid mirror"):
        RegistrySettings(mirrors=(url,)).endpoints("docker.io", for_pull=True)


@pytest.mark.parametrize(
    ("server", "host"),
    [("", "docker.io"), ("https://index.docker.io/v1/", "docker.io"), ("https://x.y:5000/v2/", "x.y:5000"), ("x.y/v1", "x.y")],
)
def test_a_server_address_has_forms_of_old(server: str, host: str) -> None:
    assert registry_host(server) == host


def _errors(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (
            404,
            _errors("MANIFEST_UNKNOWN", "manifest unknown"),
            NotFound,
            "manifest for x.y/a:b not found: manifest unknown: manifest unknown",
        ),
        (404, _errors("NAME_UNKNOWN", "repository name not known"), NotFound, "repository x.y/a not found: name unknown: "),
        (
            403,
            b"",
            NotFound,
            "pull access denied for x.y/a, repository does not exist or may require 'docker login': denied: requested",
        ),
        (401, _errors("UNAUTHORIZED", "authentication required"), Unauthorized, "unauthorized: authentication required"),
        (429, _errors("TOOMANYREQUESTS", "slow"), Unavailable, "toomanyrequests: slow"),
    ],
)
def test_a_refused_pull_is_told_in_dockers_words(status: int, body: bytes, kind: type[Exception], text: str) -> None:
    error = pull_error(read_refusal(status, body), parse_reference("x.y/a:b"))
    assert isinstance(error, kind)
    assert str(error).startswith(text)


def test_a_token_that_is_not_enough_is_a_denial() -> None:
    refusal = read_refusal(401, _errors("UNAUTHORIZED", "authentication required"), ["", "insufficient_scope"])
    assert str(push_error(refusal)) == "denied: requested access to the resource is denied"
    assert isinstance(push_error(refusal), Forbidden)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[" * 100_000, b"[]", b'{"errors":[]}', b'{"errors":[3]}', b'{"errors":{}}', b"\xff"]
)
def test_an_error_without_sense_is_its_status(body: bytes) -> None:
    assert str(read_refusal(404, body)) == "not found: not found"


def test_a_registrys_text_does_not_reach_the_terminal_as_it_is() -> None:
    refusal = read_refusal(404, _errors("X", "\x1b[2J" + "y" * 100_000))
    assert "\x1b" not in str(refusal)
    assert len(str(refusal)) < 600


def test_the_next_page_is_asked_of_the_same_registry() -> None:
    assert next_page('<https://evil.example/x?last=b&n=2>; rel="next"', "tags/list") == "tags/list?last=b&n=2"
    assert next_page("", "tags/list") is None


def test_certificates_are_a_directorys_per_registry() -> None:
    assert RegistrySettings().certificates == Path("/etc/docker/certs.d")
