"""CRI v1, served over gRPC on a Unix socket: every call and who answers it; must not know what any of them does.

A call that changes something goes on when its client gives up: a kubelet asks again, and finds it done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
from cri_api.v1 import api_pb2 as cri

from flanneld.log import Log
from runtime.cri.containers import PodContainers
from runtime.cri.disk_usage import DiskUsage
from runtime.cri.errors import status_of
from runtime.cri.events import PodEvents
from runtime.cri.images import PodImages
from runtime.cri.interactive import Interactive
from runtime.cri.pods import Pods
from runtime.cri.sandboxes import Sandboxes
from runtime.cri.stats import Stats
from runtime.cri.status import RuntimeStatus
from runtime.cri.streaming.server import StreamingServer, streaming_server
from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.engine import Engine

log = Log(__name__)
Message: TypeAlias = Any
Unary: TypeAlias = Callable[[Message], Coroutine[Any, Any, Message]]
Stream: TypeAlias = Callable[[Message], AsyncGenerator[Message, None]]
RUNTIME, IMAGE = "runtime.v1.RuntimeService", "runtime.v1.ImageService"
MOST_MESSAGE_BYTES = 16 << 20
"""As a kubelet has it."""
GRACE_S = 2.0
"""For calls that are being answered when the engine ends."""
CANCELLABLE = frozenset({"ExecSync", "PullImage"})
"""Calls that end with their client's interest: they may take for ever."""


@asynccontextmanager
async def serve(path: Path, engine: Engine) -> AsyncIterator[None]:
    """Serve CRI within the context, for root alone; raises OSError."""
    logging.getLogger("grpc").setLevel(logging.WARNING)  # a line for each call else
    async with streaming_server() as streaming:
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MOST_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ]
        )
        calls, stream = _calls(engine, streaming)
        for service, unary in calls.items():
            streams = {"GetContainerEvents": stream} if service == RUNTIME else {}
            server.add_generic_rpc_handlers((_handlers(service, unary, streams),))
        _bind(server, path)
        await server.start()
        try:
            yield
        finally:
            await server.stop(GRACE_S)
            await asyncio.to_thread(path.unlink, missing_ok=True)


def _bind(server: grpc.aio.Server, path: Path) -> None:
    """Make the socket where only root comes, and put it in its place once it is root's alone: gRPC itself would ask the umask."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as private:
        made = Path(private) / "s"
        if server.add_insecure_port(f"unix:{made}") == 0:
            raise OSError(f"cannot listen at {made}")
        made.chmod(0o600)
        os.rename(made, path)


def _calls(engine: Engine, streaming: StreamingServer) -> tuple[dict[str, dict[str, Unary]], Stream]:
    """Who answers what: unary calls by service, and the one that streams."""
    pods, disk = Pods(engine.containers), DiskUsage()
    images = PodImages(engine, disk)
    sandboxes, containers = Sandboxes(engine, pods, images.of), PodContainers(engine, pods, images.of)
    status, stats = RuntimeStatus(engine), Stats(engine, pods, disk)
    interactive = Interactive(engine, pods, streaming)
    runtime: dict[str, Unary] = {
        "Version": status.version,
        "Status": status.status,
        "RuntimeConfig": status.config,
        "UpdateRuntimeConfig": status.update_config,
        "RunPodSandbox": sandboxes.run,
        "StopPodSandbox": sandboxes.stop,
        "RemovePodSandbox": sandboxes.remove,
        "PodSandboxStatus": sandboxes.status,
        "ListPodSandbox": sandboxes.list,
        "UpdatePodSandboxResources": sandboxes.update_resources,
        "CreateContainer": containers.create,
        "StartContainer": containers.start,
        "StopContainer": containers.stop,
        "RemoveContainer": containers.remove,
        "ContainerStatus": containers.status,
        "ListContainers": containers.list,
        "UpdateContainerResources": containers.update_resources,
        "ReopenContainerLog": containers.reopen_log,
        "ExecSync": containers.exec_sync,
        "Exec": interactive.exec,
        "Attach": interactive.attach,
        "PortForward": interactive.port_forward,
        "ContainerStats": stats.container,
        "ListContainerStats": stats.containers,
        "PodSandboxStats": stats.sandbox,
        "ListPodSandboxStats": stats.sandboxes,
    }
    image: dict[str, Unary] = {
        "ListImages": images.list,
        "ImageStatus": images.status,
        "PullImage": images.pull,
        "RemoveImage": images.remove,
        "ImageFsInfo": images.fs_info,
    }
    return {RUNTIME: runtime, IMAGE: image}, PodEvents(engine, pods, images.of).stream


def _handlers(service: str, unary: Mapping[str, Unary], streams: Mapping[str, Stream]) -> grpc.GenericRpcHandler[Any, Any]:
    """What gRPC wants to know of a service; calls that are not there are answered UNIMPLEMENTED."""
    described = cri.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for name, work in unary.items():
        asked, answered = _types(described[name])
        handlers[name] = grpc.unary_unary_rpc_method_handler(
            _answering(name, work), request_deserializer=asked.FromString, response_serializer=answered.SerializeToString
        )
    for name, stream in streams.items():
        asked, answered = _types(described[name])
        handlers[name] = grpc.unary_stream_rpc_method_handler(
            _streaming(stream), request_deserializer=asked.FromString, response_serializer=answered.SerializeToString
        )
    return grpc.method_handlers_generic_handler(service, handlers)


def _types(method: Any) -> tuple[Any, Any]:
    return getattr(cri, method.input_type.name), getattr(cri, method.output_type.name)


def _answering(name: str, work: Unary) -> Callable[[Message, Any], Awaitable[Message]]:
    async def answer(request: Message, context: Any) -> Message:
        task = asyncio.create_task(work(request))
        try:
            return await (task if name in CANCELLABLE else asyncio.shield(task))
        except asyncio.CancelledError:
            if not task.done():
                task.add_done_callback(_finished(name))
            raise
        except Exception as error:
            await context.abort(status_of(error), _words(name, error))

    return answer


def _streaming(stream: Stream) -> Callable[[Message, Any], AsyncGenerator[Message, None]]:
    async def answer(request: Message, context: Any) -> AsyncGenerator[Message, None]:
        async with aclosing(stream(request)) as told:
            async for message in told:
                yield message

    return answer


def _words(name: str, error: Exception) -> str:
    """An error for a client; one that nobody foresaw is logged with its traceback. To be called where it is handled."""
    if not isinstance(error, EngineError | TimeoutError):
        log.exception("call failed", call=name, error=repr(error))
    return str(error) or type(error).__name__


def _finished(name: str) -> Callable[[asyncio.Task[Any]], None]:
    def tell(task: asyncio.Task[Any]) -> None:
        with suppress(asyncio.CancelledError):
            if error := task.exception():
                log.warning("call failed after its client had gone", call=name, why=error)

    return tell
