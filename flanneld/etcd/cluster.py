"""One etcd cluster as something to call: its members, which of them answers, as whom we call; must not know the calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypedDict, TypeVar

import grpc
from aetcd import rpc

from flanneld.etcd.endpoint import Endpoint, EtcdError, EtcdRefused, EtcdUnavailable, TlsFiles, diagnose

T = TypeVar("T")

_CHANNEL_OPTIONS = [
    # A dead connection is replaced after 6 + 4 s, mostly (grpc.keepalive_timeout_ms is not heeded: the default would be 60 s more).
    # etcd hangs up on clients that ping more often than every 5 s.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.http2.ping_timeout_ms", 4000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", -1),
    # Otherwise clients of one process would wait out each other's failures.
    ("grpc.use_local_subchannel_pool", 1),
    # etcd is dialled directly, as Go's client does.
    ("grpc.enable_http_proxy", 0),
]
_REFUSALS = frozenset(
    (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")


class EtcdLeaseGone(EtcdError):
    """There is no etcd lease of that number any more."""


class CallOptions(TypedDict):
    """Keyword arguments of every gRPC call."""

    metadata: tuple[tuple[str, str], ...]
    timeout: float | None
    """Seconds for the whole call; None: no end."""


class Member:
    """One endpoint's channel and what can be called on it."""

    def __init__(self, endpoint: Endpoint, tls: TlsFiles) -> None:
        self.endpoint = endpoint
        if endpoint.tls:
            # gRPC itself takes nothing below TLS 1.2.
            credentials = grpc.ssl_channel_credentials(*tls.pem())
            self.channel = grpc.aio.secure_channel(endpoint.target, credentials, options=_CHANNEL_OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(endpoint.target, options=_CHANNEL_OPTIONS)
        self.kv = rpc.KVStub(self.channel)
        self.lease = rpc.LeaseStub(self.channel)
        self.watch = rpc.WatchStub(self.channel)
        self.auth = rpc.AuthStub(self.channel)


class Cluster:
    """The members, the one that answered last in front, and the token that they know us by."""

    def __init__(self, urls: Iterable[str], tls: TlsFiles, user: tuple[str, str], timeout_s: float) -> None:
        """`user` is name and password; ("", ""): nobody. `timeout_s` is per try."""
        self.timeout_s = timeout_s
        self._context = tls.context()
        endpoints = [Endpoint.parse(url) for url in urls]
        if not endpoints:
            raise EtcdRefused("no etcd endpoint: expected at least one")
        self._members = deque(Member(endpoint, tls) for endpoint in endpoints)
        self._user = user
        self._token: str | None = None

    async def close(self) -> None:
        for member in self._members:
            await member.channel.close(None)

    @property
    def current(self) -> Member:
        return self._members[0]

    def options(self, timeout_s: float | None) -> CallOptions:
        return {"metadata": (("token", self._token),) if self._token else (), "timeout": timeout_s}

    async def call(self, invoke: Callable[[Member, CallOptions], Awaitable[T]]) -> T:
        """Try each member once, the last good one first; raises EtcdUnavailable, EtcdRefused, EtcdLeaseGone."""
        failures: dict[Endpoint, str] = {}
        for member in tuple(self._members):
            try:
                return await self._as_user(member, invoke)
            except grpc.aio.AioRpcError as error:
                failures[member.endpoint] = details(error)
                self._raise_final(member.endpoint, error)
            if member is self.current:
                self._members.rotate(-1)
        raise await self._explain(failures)

    async def _as_user(self, member: Member, invoke: Callable[[Member, CallOptions], Awaitable[T]]) -> T:
        if self._token is None:
            self._token = await self._authenticate(member)
        try:
            return await invoke(member, self.options(self.timeout_s))
        except grpc.aio.AioRpcError as error:
            if not self._is_stale_token(error):
                raise
        self._token = await self._authenticate(member)
        return await invoke(member, self.options(self.timeout_s))

    async def _authenticate(self, member: Member) -> str:
        name, password = self._user
        if not name:
            return ""
        try:
            answer = await member.auth.Authenticate(rpc.AuthenticateRequest(name=name, password=password), timeout=self.timeout_s)
        except grpc.aio.AioRpcError as error:
            if "authentication is not enabled" in details(error):
                return ""
            raise
        return str(answer.token)

    def _is_stale_token(self, error: grpc.aio.AioRpcError) -> bool:
        return bool(self._user[0]) and any(words in details(error) for words in _STALE_TOKEN)

    def _raise_final(self, endpoint: Endpoint, error: grpc.aio.AioRpcError) -> None:
        """Raise what another member would say too; return when asking it makes sense."""
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise EtcdLeaseGone(f"etcd at {endpoint}: {details(error)}") from error
        if error.code() in _REFUSALS and not self._is_stale_token(error):
            raise EtcdRefused(f"etcd at {endpoint}: {details(error)}") from error

    async def _explain(self, failures: dict[Endpoint, str]) -> EtcdError:
        """What to raise when every member failed: gRPC's words only where a look of our own finds nothing wrong."""
        found = await asyncio.gather(*(diagnose(endpoint, self._context) for endpoint in failures))
        text = "; ".join(f"etcd at {one.endpoint}: {one.why or failures[one.endpoint]}" for one in found)
        return EtcdRefused(text) if all(one.fatal for one in found) else EtcdUnavailable(text)


def details(error: grpc.aio.AioRpcError) -> str:
    """The error's words, in one line."""
    return " ".join((error.details() or error.code().name.lower()).split())
