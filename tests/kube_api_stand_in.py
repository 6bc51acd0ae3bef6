"""A small API server that is real as far as it goes: nodes and pods over HTTP, list and watch by resource version, patches."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from etcd_server import Certificates
from lab.place import Place

NODES = "/api/v1/nodes"
WAIT_S = 20.0


@dataclass
class Cluster:
    """What is stored, and all that has happened to it."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)
    """NAMESPACE/NAME -> node."""
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    version: int = 1
    oldest: int = 0
    """History before this version is compacted."""
    token: str = ""
    patches: list[tuple[str, Any]] = field(default_factory=list)
    """Path and body of each patch."""
    watches: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    broken: bool = False
    """Every request is answered by 503, and watches end."""

    def put(self, name: str, cidrs: tuple[str, ...] = (), notes: Mapping[str, str] | None = None) -> None:
        """Make a node, or write it over."""
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
        node = {"metadata": {"name": name, "annotations": dict(notes or {})}, "spec": spec, "status": {"conditions": []}}
        self._write("MODIFIED" if name in self.nodes else "ADDED", name, node)

    def delete(self, name: str) -> None:
        self._write("DELETED", name, self.nodes[name])

    def notes(self, name: str) -> dict[str, str]:
        found: dict[str, str] = self.nodes[name]["metadata"]["annotations"]
        return found

    def compact(self) -> None:
        """Forget history, and end all watches."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.changed.notify_all()

    def fail(self, broken: bool) -> None:
        """Answer nothing but 503 from now on, or well again."""
        with self.changed:
            self.broken = broken
            self.changed.notify_all()

    def patch(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Strategic merge: annotations key by key, conditions by type."""
        node: dict[str, Any] = json.loads(json.dumps(self.nodes[name]))
        node["metadata"]["annotations"] |= body.get("metadata", {}).get("annotations", {})
        conditions = {one["type"]: one for one in node["status"]["conditions"]}
        for one in body.get("status", {}).get("conditions", []):
            conditions[one["type"]] = {**conditions.get(one["type"], {}), **one}
        node["status"]["conditions"] = list(conditions.values())
        self._write("MODIFIED", name, node)
        return node

    def _write(self, kind: str, name: str, node: dict[str, Any]) -> None:
        with self.changed:
            self.version += 1
            node["metadata"]["resourceVersion"] = str(self.version)
            self.nodes.pop(name, None)
            if kind != "DELETED":
                self.nodes[name] = node
            self.events.append((self.version, kind, json.loads(json.dumps(node))))
            self.changed.notify_all()

    def wait(self, version: int) -> None:
        """Until something has happened after that version, but not for ever."""
        with self.changed:
            self.changed.wait_for(lambda: self.since(version) or self.broken or version < self.oldest, 1)

    def since(self, version: int) -> list[tuple[int, str, dict[str, Any]]]:
        return [event for event in self.events if event[0] > version]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if not self._may():
            return
        if url.path == NODES and "watch" in query:
            self._watch(int(query["resourceVersion"][0]))
        elif url.path == NODES:
            with self.cluster.changed:
                items, version = list(self.cluster.nodes.values()), self.cluster.version
            self._answer({"kind": "NodeList", "metadata": {"resourceVersion": str(version)}, "items": items})
        elif url.path.startswith(f"{NODES}/"):
            self._answer(self.cluster.nodes.get(url.path.rpartition("/")[2]))
        else:
            parts = url.path.split("/")
            node = self.cluster.pods.get(f"{parts[4]}/{parts[6]}") if len(parts) == 7 else None
            self._answer({"spec": {"nodeName": node}} if node else None)

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may():
            return
        name, _, sub = self.path.removeprefix(f"{NODES}/").partition("/")
        assert (sub, self.headers["Content-Type"]) == ("status", "application/strategic-merge-patch+json")
        self.cluster.patches.append((self.path, body))
        self._answer(self.cluster.patch(name, body) if name in self.cluster.nodes else None)

    def _may(self) -> bool:
        if self.cluster.broken:
            self._answer({"message": "etcd is away"}, HTTPStatus.SERVICE_UNAVAILABLE)
        elif self.cluster.token and self.headers["Authorization"] != f"Bearer {self.cluster.token}":
            self._answer({"message": "Unauthorized"}, HTTPStatus.UNAUTHORIZED)
        else:
            return True
        return False

    def _answer(self, body: object, status: HTTPStatus = HTTPStatus.OK) -> None:
        if body is None:
            body, status = {"kind": "Status", "message": f"{self.path} not found"}, HTTPStatus.NOT_FOUND
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _watch(self, version: int) -> None:
        """Events as they come, until history is compacted or the server breaks."""
        self.cluster.watches += 1
        self.send_response(HTTPStatus.OK)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            while not self.cluster.broken:
                if version < self.cluster.oldest:
                    self._event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})
                    break
                for number, kind, node in self.cluster.since(version):
                    self._event(kind, node)
                    version = number
                self.cluster.wait(version)
                self._event("BOOKMARK", {"metadata": {"name": "", "resourceVersion": str(version)}})
            self.wfile.write(b"0\r\n\r\n")

    def _event(self, kind: str, node: object) -> None:
        data = json.dumps({"type": kind, "object": node}).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


@contextmanager
def api_server(
    cluster: Cluster, address: str = "127.0.0.1", certificates: Certificates | None = None, place: Place | None = None
) -> Iterator[str]:
    """Serve the cluster, here or in that place; yields the URL. With certificates, clients must show theirs."""
    handler = type("Serving", (Handler,), {"cluster": cluster})
    server = place.call(ThreadingHTTPServer, (address, 0), handler) if place else ThreadingHTTPServer((address, 0), handler)
    server.daemon_threads = True
    if certificates:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.ca)
        context.load_cert_chain(certificates.server, certificates.server_key)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"{'https' if certificates else 'http'}://{address}:{server.server_address[1]}"
    finally:
        cluster.fail(broken=True)
        server.shutdown()
        server.server_close()
        thread.join()
