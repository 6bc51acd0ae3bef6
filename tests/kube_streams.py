"""As much of an API server and a kubelet as `kubectl exec`, `attach` and `port-forward` need, in front of a CRI socket: a program.

    python kube_streams.py /run/tartan/cri.sock
    > 40123                         the port on loopback where it listens

Every pod is in namespace default and called as its sandbox is. An upgrade request is sent on to the URL that CRI gives out, as it
is but for its first line; from then on bytes are passed on, as a kubelet does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc.aio
from cri_api.v1 import api_pb2 as cri
from cri_api.v1 import api_pb2_grpc

NAMESPACE = "/api/v1/namespaces/default/pods/"
VERBS = ["create", "get", "list"]
DISCOVERY: dict[str, Any] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "pods", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": VERBS}],
    },
}


class KubeStreams:
    """Its runtime, and clients one at a time."""

    def __init__(self, socket: str) -> None:
        channel = grpc.aio.insecure_channel(f"unix:{socket}")
        self._runtime: Any = api_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call]  # generated

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, _, rest = head.partition("\r\n")
                url = urlsplit(first.split()[1])
                if "upgrade: " in rest.lower():
                    await self._forward(await self._target(url.path, parse_qs(url.query)), first, rest, reader, writer)
                    return
                document = DISCOVERY.get(url.path) or await self._pod(url.path.removeprefix(NAMESPACE))
                body = json.dumps(document).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _sandbox(self, name: str) -> Any:
        found = await self._runtime.ListPodSandbox(cri.ListPodSandboxRequest())
        return next(each for each in found.items if each.metadata.name == name and each.state == cri.SANDBOX_READY)

    async def _containers(self, sandbox: str) -> Any:
        asked = cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id=sandbox))
        return (await self._runtime.ListContainers(asked)).containers

    async def _pod(self, name: str) -> dict[str, Any]:
        sandbox = await self._sandbox(name)
        containers = []
        for each in await self._containers(sandbox.id):
            asked = cri.ContainerStatusRequest(container_id=each.id, verbose=True)
            info = json.loads((await self._runtime.ContainerStatus(asked)).info["info"])
            terminal = info["runtimeSpec"]["process"]["terminal"]
            containers.append({"name": each.metadata.name, "stdin": True, "tty": terminal})
        return {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "default", "uid": sandbox.metadata.uid},
            "spec": {"containers": containers},
            "status": {"phase": "Running"},
        }

    async def _target(self, path: str, query: dict[str, list[str]]) -> str:
        """The URL that CRI gives out for what is asked."""
        name, _, verb = path.removeprefix(NAMESPACE).partition("/")
        sandbox = (await self._sandbox(name)).id
        wanted = {flag: query.get(flag, ["false"])[0] in ("1", "true") for flag in ("stdin", "stdout", "stderr", "tty")}
        if verb == "portforward":
            ports = [int(port) for port in query.get("ports", [])]
            answer = await self._runtime.PortForward(cri.PortForwardRequest(pod_sandbox_id=sandbox, port=ports))
            return str(answer.url)
        container = (await self._containers(sandbox))[0].id
        if verb == "attach":
            return str((await self._runtime.Attach(cri.AttachRequest(container_id=container, **wanted))).url)
        asked = cri.ExecRequest(container_id=container, cmd=query["command"], **wanted)
        return str((await self._runtime.Exec(asked)).url)

    async def _forward(self, url: str, first: str, rest: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(url)
        far_reader, far_writer = await asyncio.open_connection(target.hostname, target.port)
        far_writer.write(f"{first.split()[0]} {target.path} HTTP/1.1\r\n{rest}".encode())
        ways = (_pass_on(reader, far_writer), _pass_on(far_reader, writer))
        tasks = [asyncio.create_task(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        far_writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def main() -> None:
    serving = KubeStreams(sys.argv[1])
    server = await asyncio.start_server(serving.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
