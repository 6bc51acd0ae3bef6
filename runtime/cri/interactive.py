"""CRI's calls that give out a URL: Exec, Attach, PortForward; must not know how what comes to it is carried.

What is asked for is looked at again when the client comes, which may be a minute later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from cri_api.v1 import api_pb2 as cri

from runtime.containers.execs import ExecConfig
from runtime.cri.answers import is_ready
from runtime.cri.pods import Member, Pods
from runtime.cri.streaming.commands import Command
from runtime.cri.streaming.port_forward import Forward
from runtime.cri.streaming.remote import ended_with, succeeded
from runtime.cri.streaming.server import CommandRequest, PortsRequest, StreamingServer
from runtime.errors import Conflict, EngineError, InvalidParameter

if TYPE_CHECKING:
    from runtime.engine import Engine


class Interactive:
    """One engine's."""

    def __init__(self, engine: Engine, pods: Pods, server: StreamingServer) -> None:
        self._containers = engine.containers
        self._execs = engine.containers.execs
        self._pods = pods
        self._server = server

    async def exec(self, request: cri.ExecRequest) -> cri.ExecResponse:
        """Exec."""
        member = self._running(request.container_id)
        if not request.cmd:
            raise InvalidParameter("no command specified")
        begin = partial(self._exec, member.id, request)
        return cri.ExecResponse(url=self._url("exec", request, begin))

    async def attach(self, request: cri.AttachRequest) -> cri.AttachResponse:
        """Attach."""
        member = self._running(request.container_id)
        tty = member.config.tty
        asked = cri.AttachRequest(
            container_id=member.id,
            stdin=request.stdin and member.config.stdin,
            stdout=request.stdout,
            stderr=request.stderr and not tty,
            tty=tty,
        )
        begin = partial(self._attach, member.id, asked)
        return cri.AttachResponse(url=self._url("attach", request, begin))

    async def port_forward(self, request: cri.PortForwardRequest) -> cri.PortForwardResponse:
        """PortForward."""
        sandbox = self._pods.sandbox(request.pod_sandbox_id)
        if not is_ready(sandbox):
            raise Conflict(f"sandbox {sandbox.id} is not running")
        if any(not 0 < port < 1 << 16 for port in request.port):
            raise InvalidParameter(f"invalid ports {list(request.port)}, expected 1 to 65535")
        begin = partial(self._forward, sandbox.id, tuple(request.port))
        return cri.PortForwardResponse(url=self._server.url("portforward", PortsRequest(begin)))

    def _url(self, verb: str, request: cri.ExecRequest | cri.AttachRequest, begin: Callable[[], Awaitable[Command]]) -> str:
        if request.tty and request.stderr:
            raise InvalidParameter("tty and stderr cannot both be true")
        if not (request.stdin or request.stdout or request.stderr):
            raise InvalidParameter("one of stdin, stdout, or stderr must be set")
        asked = CommandRequest(begin, request.stdin, request.stdout, request.stderr, request.tty)
        return self._server.url(verb, asked)

    def _running(self, identity: str) -> Member:
        member = self._pods.member(identity)
        if not member.container.is_running:
            raise Conflict(f"container {member.id} is not running")
        return member

    async def _exec(self, identity: str, request: cri.ExecRequest) -> Command:
        container = self._running(identity).container
        config = msgspec.structs.replace(
            ExecConfig(),
            cmd=tuple(request.cmd),
            tty=request.tty,
            attach_stdin=request.stdin,
            attach_stdout=request.stdout,
            attach_stderr=request.stderr,
        )
        made = await self._execs.create(container, config)
        stream = await self._execs.start(made)
        if stream is None:
            raise EngineError("a command without streams")

        async def outcome() -> dict[str, Any]:
            return ended_with(await self._execs.ended(made))

        return Command(stream, request.tty, partial(self._execs.resize, made), outcome)

    async def _attach(self, identity: str, request: cri.AttachRequest) -> Command:
        container = self._running(identity).container
        stream = await self._containers.attach(container, request.stdin, request.stdout, request.stderr)

        async def outcome() -> dict[str, Any]:
            return succeeded()

        return Command(stream, request.tty, partial(self._containers.resize, container), outcome)

    async def _forward(self, identity: str, ports: tuple[int, ...]) -> Forward:
        sandbox = self._pods.sandbox(identity)
        if not is_ready(sandbox):
            raise Conflict(f"sandbox {sandbox.id} is not running")
        on_host = sandbox.config.linux.security_context.namespace_options.network == cri.NODE
        return Forward("" if on_host else f"/proc/{sandbox.container.record.life.pid}/ns/net", ports)
