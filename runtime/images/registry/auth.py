"""Who we are to a registry: credentials as clients send them, challenges, tokens (RFC 9110 §11, distribution's token and oauth2
specifications); must not know what is asked for with them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from runtime.errors import Unauthorized
from runtime.images.registry.refusals import Protocol, Unreachable, read_refusal
from runtime.images.registry.settings import Endpoint
from runtime.images.registry.transport import Request, Transport, read_all, read_error

CLIENT = "tartan"
"""What we call ourselves to a token service."""
MAX_TOKEN_ANSWER = 1 << 20
SHORTEST_LIFE_S = 60.0
"""What a token is good for when its service does not say or says less (token specification, "expires_in")."""
MARGIN_S = 10.0
"""A token this near to its end is not used any more."""
MAX_TOKENS = 256

_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z]+)\s+(?=[A-Za-z_]+\s*=)")
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a user has for one registry; empty: not that."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """Stands for username and password at a token service (oauth2's refresh token)."""
    registry_token: str = field(default="", repr=False)
    """To be sent as it is."""
    server: str = ""
    """The registry, as the client calls it."""


def parse_auth(header: str) -> Credentials | None:
    """Read X-Registry-Auth (base64url of JSON); None: nothing in it, or nothing that makes sense, which Docker forgives."""
    try:
        return parse_credentials(base64.urlsafe_b64decode(header.strip().replace("+", "-").replace("/", "_") + "==="))
    except (ValueError, binascii.Error):
        return None


def parse_credentials(document: bytes | str) -> Credentials | None:
    """Read the JSON that is in X-Registry-Auth and in POST /auth; None: nothing in it, or nothing that makes sense."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return None
    return credentials_of(found) if isinstance(found, dict) else None


def credentials_of(document: dict[str, object]) -> Credentials | None:
    """The same, decoded already: an entry of X-Registry-Config; None: nothing in it."""
    given = {key.lower(): value for key, value in document.items() if isinstance(value, str)}
    username, password = given.get("username", ""), given.get("password", "")
    if not username and (both := given.get("auth")):
        try:
            username, _, password = base64.b64decode(both).decode().rstrip("\0").partition(":")
        except ValueError:
            return None
    found = Credentials(
        username, password, given.get("identitytoken", ""), given.get("registrytoken", ""), given.get("serveraddress", "")
    )
    return found if found.username or found.identity_token or found.registry_token else None


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a registry wants to be convinced."""

    scheme: str
    """"bearer" or "basic"; others are nothing to us."""
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""
    """RFC 6750 §3.1, when a token was sent and is not good (enough)."""


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Understand WWW-Authenticate, several of them and several in one."""
    found: list[Challenge] = []
    for header in headers:
        begins = list(_SCHEME.finditer(header))
        if not begins and header.strip():
            found.append(Challenge(header.split()[0].lower()))
        for match, end in zip(begins, [*(match.start() for match in begins[1:]), len(header)], strict=False):
            parameters = _parameters(header[match.end() : end])
            known = {name: parameters.get(name, "") for name in ("realm", "service", "scope", "error")}
            found.append(Challenge(match[1].lower(), **known))
    return tuple(found)


def _parameters(text: str) -> dict[str, str]:
    return {
        match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(text)
    }


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    until: float
    """On the monotonic clock."""


class Tokens:
    """Authorization headers, remembered for as long as they are good."""

    def __init__(self, transport: Transport, now: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._now = now
        self._kept: dict[tuple[object, ...], _Token] = {}
        self._asking = asyncio.Lock()

    async def header(
        self,
        endpoint: Endpoint,
        challenges: Sequence[Challenge],
        scopes: tuple[str, ...],
        credentials: Credentials | None,
        rejected: str,
    ) -> str:
        """What to answer to challenges, "" when there is nothing better than what was `rejected`; raises Unauthorized, .."""
        by_scheme = {challenge.scheme: challenge for challenge in challenges}
        if (bearer := by_scheme.get("bearer")) is not None:
            if credentials and credentials.registry_token:
                found = f"Bearer {credentials.registry_token}"
            else:
                found = await self._bearer(endpoint, bearer, scopes, credentials, rejected)
        elif "basic" in by_scheme and credentials and credentials.username:
            found = _basic(credentials)
        else:
            found = ""
        return "" if found == rejected else found

    async def _bearer(
        self, endpoint: Endpoint, challenge: Challenge, scopes: tuple[str, ...], credentials: Credentials | None, rejected: str
    ) -> str:
        wanted = (*scopes, *(scope for scope in challenge.scope.split() if not any(_covers(own, scope) for own in scopes)))
        key = (
            challenge.realm,
            challenge.service,
            wanted,
            credentials and (credentials.username, credentials.password, credentials.identity_token),
        )
        async with self._asking:
            kept = self._kept.get(key)
            if kept is None or kept.until <= self._now() or kept.header == rejected:
                kept = self._kept[key] = await self._ask(endpoint, challenge, wanted, credentials)
                self._forget()
            return kept.header

    def _forget(self) -> None:
        now = self._now()
        for key in [key for key, token in self._kept.items() if token.until <= now]:
            del self._kept[key]
        while len(self._kept) > MAX_TOKENS:
            del self._kept[next(iter(self._kept))]

    async def _ask(
        self, endpoint: Endpoint, challenge: Challenge, scopes: tuple[str, ...], credentials: Credentials | None
    ) -> _Token:
        realm = urlsplit(challenge.realm)
        if realm.scheme != "https" and not (realm.scheme == "http" and endpoint.may_be_plain):
            raise Protocol(f"{endpoint.host} names {challenge.realm[:200]!r} for its tokens, expected an https URL")
        response = await self._transport.open(endpoint, _token_request(challenge, scopes, credentials))
        if response.status_code in (401, 403):
            refusal = read_refusal(response.status_code, await read_error(response))
            if credentials:
                raise Unauthorized("unauthorized: incorrect username or password")
            raise Unauthorized(str(refusal))
        if response.status_code != 200:
            status = response.status_code
            await response.aclose()
            raise Unreachable(f"failed to fetch oauth token: unexpected status from GET request to {realm.netloc}: {status}")
        return self._token(endpoint, await read_all(response, MAX_TOKEN_ANSWER))

    def _token(self, endpoint: Endpoint, answer: bytes) -> _Token:
        try:
            found = json.loads(answer)
            token = str(found.get("token") or found.get("access_token") or "")
            life_s = float(found.get("expires_in") or 0)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Protocol(f"the token service of {endpoint.host} answers what is no token") from error
        if not token or not token.isascii() or not token.isprintable():
            raise Protocol(f"the token service of {endpoint.host} answers what is no token")
        return _Token(f"Bearer {token}", self._now() + max(life_s, SHORTEST_LIFE_S) - MARGIN_S)


def _covers(scope: str, other: str) -> bool:
    """Whether a scope ("repository:NAME:ACTION,..") is all that the other is."""
    (resource, _, actions), (other_resource, _, other_actions) = scope.rpartition(":"), other.rpartition(":")
    return resource == other_resource and set(other_actions.split(",")) <= set(actions.split(","))


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def _token_request(challenge: Challenge, scopes: tuple[str, ...], credentials: Credentials | None) -> Request:
    """An identity token is exchanged by POST; all others ask by GET, with a password or for everybody's rights."""
    service = [("service", challenge.service)] if challenge.service else []
    if credentials and credentials.identity_token:
        form = [
            ("grant_type", "refresh_token"),
            *service,
            ("client_id", CLIENT),
            ("scope", " ".join(scopes)),
            ("refresh_token", credentials.identity_token),
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request("POST", challenge.realm, headers, urlencode(form).encode())
    query = [*service, *(("scope", scope) for scope in scopes)]
    headers = {}
    if credentials and credentials.username:
        query.append(("account", credentials.username))
        headers["Authorization"] = _basic(credentials)
    joint = "&" if urlsplit(challenge.realm).query else "?"
    return Request("GET", challenge.realm + (f"{joint}{urlencode(query)}" if query else ""), headers)
