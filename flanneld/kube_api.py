"""The Kubernetes API as far as a lease store needs it: get, patch, list and watch; must not know what the objects mean.

Access is found as client-go finds it: a kubeconfig file, a URL, or the pod's own service account. httpx and yaml are imported when
this module is, which is in Kubernetes mode alone.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from flanneld import FlanneldError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 10.0
"""For an answer; a watch has no end of its own."""
WATCH_SILENCE_S = 60.0
"""Longer than servers are silent: bookmarks come about once a minute, and a watch is begun anew after this."""
STRATEGIC_MERGE = "application/strategic-merge-patch+json"


class KubeError(FlanneldError):
    """The API server, or our side, will not have it."""


class KubeUnavailable(KubeError):
    """No answer, or one that says to come back later."""


class KubeNotFound(KubeError):
    """There is no such object."""


class HistoryGone(KubeError):
    """410: the watch's resource version is too old; list again."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is, and as whom we come."""

    url: str
    ca: str | None = None
    """PEM; None: the system's authorities."""
    client: tuple[str, str] | None = None
    """Files with our certificate and its key."""
    token: str = ""
    token_file: Path | None = None
    """Read again for every call: the kubelet renews it."""
    insecure: bool = False

    def headers(self) -> dict[str, str]:
        """What says who we are; raises KubeError."""
        try:
            token = self.token_file.read_text().strip() if self.token_file else self.token
        except OSError as error:
            raise KubeError(f"token file {self.token_file}: {str(error.strerror).lower()}") from error
        return {"Authorization": f"Bearer {token}"} if token else {}

    def context(self) -> ssl.SSLContext:
        """What a connection trusts and shows; raises KubeError."""
        try:
            context = ssl.create_default_context(cadata=self.ca)
            if self.client:
                context.load_cert_chain(*self.client)
        except OSError as error:
            raise KubeError(f"certificates for {self.url}: {error}") from error
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def find_access(url: str, kubeconfig: str, environ: Mapping[str, str]) -> Access:
    """The flags' kubeconfig and URL, else the pod's service account; raises KubeError naming what is missing."""
    if kubeconfig:
        return _from_kubeconfig(Path(kubeconfig), url)
    if url:
        return Access(url)
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeError("no kube-api-url, no kubeconfig-file, and not in a pod: KUBERNETES_SERVICE_HOST is not set")
    ca = _text(SERVICE_ACCOUNT / "ca.crt", "service account's CA")
    return Access(f"https://{f'[{host}]' if ':' in host else host}:{port}", ca, token_file=SERVICE_ACCOUNT / "token")


def _from_kubeconfig(path: Path, url: str) -> Access:
    try:
        config = yaml.safe_load(_text(path, "kubeconfig-file"))
        contexts = {one["name"]: one["context"] for one in config["contexts"]}
        context = contexts[config["current-context"]]
        cluster = next(one["cluster"] for one in config["clusters"] if one["name"] == context["cluster"])
        user: dict[str, Any] = next((one["user"] for one in config.get("users", ()) if one["name"] == context.get("user")), {})
    except (yaml.YAMLError, KeyError, TypeError, StopIteration) as error:
        raise KubeError(f"kubeconfig-file {path}: expected a current context with a cluster: {error!r}") from error
    ca = _inline(cluster, "certificate-authority", path)
    return Access(
        url or cluster.get("server", ""),
        ca.read_text() if ca else None,
        _pair(_inline(user, "client-certificate", path), _inline(user, "client-key", path)),
        user.get("token", ""),
        path.parent / user["tokenFile"] if user.get("tokenFile") else None,
        bool(cluster.get("insecure-skip-tls-verify")),
    )


def _inline(section: Mapping[str, Any], key: str, kubeconfig: Path) -> Path | None:
    """The file that a key names, or one with what is in the kubeconfig itself (KEY-data); raises KubeError."""
    if data := section.get(f"{key}-data"):
        # The standard library's TLS reads a client's key from a file only.
        path = Path(f"/proc/self/fd/{os.memfd_create(key)}")
        path.write_bytes(base64.b64decode(data))
        return path
    if not section.get(key):
        return None
    path = kubeconfig.parent / str(section[key])
    if not path.is_file():
        raise KubeError(f"kubeconfig-file {kubeconfig}: {key} {path}: no such file")
    return path


def _pair(cert: Path | None, key: Path | None) -> tuple[str, str] | None:
    return (str(cert), str(key)) if cert and key else None


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise KubeError(f"{what} {path}: {str(error.strerror).lower()}") from error


class KubeApi:
    """One API server, as one user."""

    def __init__(self, access: Access) -> None:
        """Raises KubeError."""
        self._access = access
        try:
            self._client = httpx.AsyncClient(base_url=access.url, verify=access.context(), timeout=TIMEOUT_S)
        except (httpx.InvalidURL, ValueError) as error:
            raise KubeError(f"kube-api-url {access.url!r}: {error}") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        """Read an object or a list; raises KubeError."""
        with _in_words(self._access.url):
            answer = await self._client.get(path, params=params, headers=self._access.headers())
        return _checked(answer, path)

    async def patch(self, path: str, body: object) -> dict[str, Any]:
        """Change an object by a strategic merge patch; raises KubeError."""
        headers = {**self._access.headers(), "Content-Type": STRATEGIC_MERGE}
        with _in_words(self._access.url):
            answer = await self._client.patch(path, content=json.dumps(body), headers=headers)
        return _checked(answer, path)

    @asynccontextmanager
    async def watch(self, path: str, resource_version: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """What happens after that version, event by event; it ends when the server says so. Raises KubeError."""
        params = {"watch": "true", "resourceVersion": resource_version, "allowWatchBookmarks": "true"}
        limits = httpx.Timeout(TIMEOUT_S, read=WATCH_SILENCE_S)
        with _in_words(self._access.url):
            headers = self._access.headers()
            async with self._client.stream("GET", path, params=params, headers=headers, timeout=limits) as answer:
                if answer.status_code != httpx.codes.OK:
                    await answer.aread()
                    _checked(answer, path)
                yield _events(answer, path)


async def _events(answer: httpx.Response, path: str) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        event: dict[str, Any] = json.loads(line)
        if event.get("type") == "ERROR":
            status = event.get("object", {})
            if status.get("code") == httpx.codes.GONE:
                raise HistoryGone(f"watch of {path}: {status.get('message')}")
            raise KubeUnavailable(f"watch of {path}: {status.get('message')}")
        yield event


def _checked(answer: httpx.Response, path: str) -> dict[str, Any]:
    """The answer's object; raises what its status means."""
    try:
        body: dict[str, Any] = answer.json()
    except ValueError:
        body = {}
    if answer.is_success and body:
        return body
    words = f"{answer.request.url.netloc.decode()}: {path}: {answer.status_code} {body.get('message') or answer.reason_phrase}"
    if answer.status_code == httpx.codes.GONE:
        raise HistoryGone(words)
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise KubeNotFound(words)
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.UNPROCESSABLE_ENTITY):
        raise KubeError(words)
    raise KubeUnavailable(words)


class _in_words:  # noqa: N801  # used like contextlib's
    """Tell httpx's errors as ours."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, httpx.HTTPError):
            raise KubeUnavailable(f"{self._url}: {str(error) or type(error).__name__}") from error
        if isinstance(error, json.JSONDecodeError):
            raise KubeUnavailable(f"{self._url}: an event that is no JSON: {error}") from error
