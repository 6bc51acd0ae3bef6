"""One etcd cluster as something to call: its members, which of them answers, as whom we call; must not know the calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from flanneld.etcd import rpc
from flanneld.etcd.call import ConnectionLost, RpcError, Status
from flanneld.etcd.endpoint import Endpoint, EtcdError, EtcdRefused, EtcdUnavailable, TlsFiles, Trust, diagnose
from flanneld.etcd.member import CallOptions, Member

T = TypeVar("T")

_REFUSALS = frozenset(
    (
        Status.UNAUTHENTICATED,
        Status.PERMISSION_DENIED,
        Status.INVALID_ARGUMENT,
        Status.FAILED_PRECONDITION,
        Status.UNIMPLEMENTED,
    )
)
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")


class EtcdLeaseGone(EtcdError):
    """There is no etcd lease of that number any more."""


class Cluster:
    """The members, the one that answered last in front, and the token that they know us by."""

    def __init__(self, urls: Iterable[str], tls: TlsFiles, user: tuple[str, str], timeout_s: float) -> None:
        """`user` is name and password; ("", ""): nobody. `timeout_s` is per try."""
        self.timeout_s = timeout_s
        endpoints = [Endpoint.parse(url) for url in urls]
        if not endpoints:
            raise EtcdRefused("no etcd endpoint: expected at least one")
        # All of the system's authorities are in a context, which takes time and memory: not where nobody needs it.
        self._trust = Trust(tls) if tls.given or any(endpoint.tls for endpoint in endpoints) else None
        self._members = deque(Member(endpoint, self._trust) for endpoint in endpoints)
        self._user = user
        self._token: str | None = None

    async def close(self) -> None:
        for member in self._members:
            await member.close()

    def reconnect(self) -> None:
        """Give up all connections."""
        for member in self._members:
            member.reconnect()

    @property
    def current(self) -> Member:
        return self._members[0]

    def leave(self, member: Member) -> None:
        """Ask another one first, if this one would be."""
        if member is self.current:
            self._members.rotate(-1)

    def options(self, timeout_s: float | None) -> CallOptions:
        return CallOptions((("token", self._token),) if self._token else (), timeout_s)

    async def call(self, invoke: Callable[[Member, CallOptions], Awaitable[T]]) -> T:
        """Try each member once, the last good one first; raises EtcdUnavailable, EtcdRefused, EtcdLeaseGone."""
        failures: dict[Endpoint, str] = {}
        for member in tuple(self._members):
            try:
                return await self._connected(member, invoke)
            except RpcError as error:
                failures[member.endpoint] = str(error)
                self._raise_final(member.endpoint, error)
            self.leave(member)
        raise await self._explain(failures)

    async def _connected(self, member: Member, invoke: Callable[[Member, CallOptions], Awaitable[T]]) -> T:
        """An etcd that has restarted since the last call answers on a new connection."""
        with suppress(ConnectionLost):
            return await self._as_user(member, invoke)
        return await self._as_user(member, invoke)

    async def _as_user(self, member: Member, invoke: Callable[[Member, CallOptions], Awaitable[T]]) -> T:
        if self._token is None:
            self._token = await self._authenticate(member)
        try:
            return await invoke(member, self.options(self.timeout_s))
        except RpcError as error:
            if not self._is_stale_token(error):
                raise
        self._token = await self._authenticate(member)
        return await invoke(member, self.options(self.timeout_s))

    async def _authenticate(self, member: Member) -> str:
        name, password = self._user
        if not name:
            return ""
        question = rpc.AuthenticateRequest(name=name, password=password)
        try:
            answer = await member.ask(rpc.AUTHENTICATE, question, CallOptions((), self.timeout_s))
        except RpcError as error:
            if "authentication is not enabled" in str(error):
                return ""
            raise
        return str(answer.token)

    def _is_stale_token(self, error: RpcError) -> bool:
        return bool(self._user[0]) and any(words in str(error) for words in _STALE_TOKEN)

    def _raise_final(self, endpoint: Endpoint, error: RpcError) -> None:
        """Raise what another member would say too; return when asking it makes sense."""
        if error.status is Status.NOT_FOUND:
            raise EtcdLeaseGone(f"etcd at {endpoint}: {error}") from error
        if error.status in _REFUSALS and not self._is_stale_token(error):
            raise EtcdRefused(f"etcd at {endpoint}: {error}") from error

    async def _explain(self, failures: dict[Endpoint, str]) -> EtcdError:
        """What to raise when every member failed: the call's words only where a look of our own finds nothing wrong."""
        found = await asyncio.gather(*(diagnose(endpoint, self._trust) for endpoint in failures))
        text = "; ".join(f"etcd at {one.endpoint}: {one.why or failures[one.endpoint]}" for one in found)
        return EtcdRefused(text) if all(one.fatal for one in found) else EtcdUnavailable(text)
