"""A real registry (Debian's docker-registry) on loopback, and a token service for it; must not know what is tested with them."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from runtime_images import Files, digest_of, gzipped, image_config, layer_tar

PROGRAM = Path(sys.executable).parent.parent / "lib/docker/docker-registry"
USER, PASSWORD, IDENTITY = "ann", "secret", "identity"
_HTPASSWD = f"{USER}:$2b$04$vi1aoxwl3XZqvvgdlxw5c.ybsr2nNb14Eu9jSlDcP.xO9qGo27BUW\n"
"""bcrypt of the password, at the least cost."""
START_S = 20.0
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Registry:
    """A registry that runs."""

    address: str
    """"127.0.0.1:PORT"."""
    root: Path
    """Where it keeps things."""

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Ask it something, as nobody."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def put_blob(self, name: str, data: bytes) -> str:
        """Give it a blob; returns the digest."""
        _, headers, _ = self.request("POST", f"/v2/{name}/blobs/uploads/")
        location = urlsplit(headers["location"])
        status, _, body = self.request("PUT", f"{location.path}?{location.query}&digest={digest_of(data)}", data)
        assert status == 201, body
        return digest_of(data)

    def put_manifest(self, name: str, reference: str, document: object, media_type: str) -> str:
        """Give it a manifest; returns the digest."""
        data = json.dumps(document).encode()
        status, _, body = self.request("PUT", f"/v2/{name}/manifests/{reference or digest_of(data)}", data, Content_Type=media_type)
        assert status == 201, body
        return digest_of(data)

    def put_image(self, name: str, tag: str, image: RemoteImage) -> str:
        """Give it an image ("" as tag: by its digest alone); returns the manifest's digest."""
        for blob in (image.config, *image.blobs):
            self.put_blob(name, blob)
        return self.put_manifest(name, tag, image.manifest, str(image.manifest["mediaType"]))

    def has_blob(self, name: str, digest: str) -> bool:
        return self.request("HEAD", f"/v2/{name}/blobs/{digest}")[0] == 200


@dataclass(frozen=True)
class RemoteImage:
    """An image as a registry has it."""

    config: bytes
    blobs: tuple[bytes, ...]
    """Layers, compressed or not."""
    media_type: str = MANIFEST
    layer_type: str = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    config_type: str = "application/vnd.docker.container.image.v1+json"

    @classmethod
    def of(cls, *layers: Files, **config: object) -> RemoteImage:
        """An image of these files, compressed."""
        tars = [layer_tar(files) for files in layers]
        return cls(image_config(tars, **config), tuple(gzipped(tar) for tar in tars))

    @property
    def id(self) -> str:
        return digest_of(self.config)

    @property
    def manifest(self) -> dict[str, object]:
        def descriptor(kind: str, data: bytes) -> dict[str, object]:
            return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

        return {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": descriptor(self.config_type, self.config),
            "layers": [descriptor(self.layer_type, blob) for blob in self.blobs],
        }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def registry(directory: Path, extra: str = "", tls: tuple[Path, Path] | None = None) -> Iterator[Registry]:
    """A registry within the context; `extra` is more of its configuration (YAML), `tls` its certificate and key."""
    directory.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{_free_port()}"
    settings = directory / "registry.yml"
    secured = f", tls: {{certificate: {tls[0]}, key: {tls[1]}}}" if tls else ""
    settings.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{address}', secret: s, relativeurls: true{secured}}}\n{extra}"
    )
    with (directory / "registry.log").open("wb") as output:
        process = subprocess.Popen([PROGRAM, "serve", settings], stdout=output, stderr=output)
    try:
        found = Registry(address, directory / "data")
        _wait_until_it_answers(found, process)
        yield found
    finally:
        process.kill()
        process.wait()


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _wait_until_it_answers(found: Registry, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(_pair(found.address), 5):
            return
        time.sleep(0.02)
    raise AssertionError("docker-registry does not start")


def htpasswd(directory: Path) -> str:
    """Configuration of a registry for USER alone."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "htpasswd"
    path.write_text(_HTPASSWD)
    return f"auth: {{htpasswd: {{realm: tests, path: {path}}}}}\n"


def mirror_of(other: Registry) -> str:
    """Configuration of a registry that copies another as it is asked."""
    return f"proxy: {{remoteurl: 'http://{other.address}'}}\n"


@dataclass
class TokenService:
    """Gives everybody tokens to pull, and USER tokens to push; knows how often it was asked."""

    directory: Path
    asked: list[tuple[str, ...]] = field(default_factory=list)
    """The scopes of each request."""

    @property
    def configuration(self) -> str:
        """Of a registry that trusts this service."""
        return (
            f"auth: {{token: {{realm: 'http://{self.address}/token', service: tests, issuer: tests, "
            f"rootcertbundle: {self.directory}/cert.pem}}}}\n"
        )

    address: str = ""

    def exchange(self, form: str) -> tuple[int, bytes]:
        """Status and body for POST of a form (oauth2)."""
        given = parse_qs(form)
        scopes = tuple(given.get("scope", [""])[0].split())
        if given.get("grant_type") != ["refresh_token"] or given.get("refresh_token") != [IDENTITY]:
            return 401, b"{}"
        self.asked.append(scopes)
        return 200, json.dumps({"access_token": self._token(self._access(scopes, known=True)), "expires_in": 300}).encode()

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        """Status and body for GET of a token."""
        query = parse_qs(urlsplit(path).query)
        scopes = tuple(query.get("scope", ()))
        self.asked.append(scopes)
        known = authorization == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if authorization and not known:
            return 401, b'{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}'
        return 200, json.dumps({"token": self._token(self._access(scopes, known=known)), "expires_in": 300}).encode()

    @staticmethod
    def _access(scopes: tuple[str, ...], *, known: bool) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for scope in scopes:
            kind, name, actions = scope.split(":")  # no name here has a port
            granted = [action for action in actions.split(",") if known or (action == "pull" and not name.startswith("private/"))]
            found.append({"type": kind, "name": name, "actions": granted})
        return found

    def _token(self, access: list[dict[str, object]]) -> str:
        certificate = (self.directory / "cert.pem").read_text().split("-----")[2].replace("\n", "")
        now = int(time.time())
        claims = {
            "iss": "tests",
            "aud": "tests",
            "sub": "x",
            "exp": now + 300,
            "nbf": now - 60,
            "iat": now,
            "jti": "1",
            "access": access,
        }
        parts = ({"typ": "JWT", "alg": "RS256", "x5c": [certificate]}, claims)
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in parts)
        command = ["openssl", "dgst", "-sha256", "-sign", str(self.directory / "key.pem")]
        signature = subprocess.run(command, input=signed, capture_output=True, check=True).stdout
        return (signed + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def token_service(directory: Path) -> Iterator[TokenService]:
    """A token service within the context."""
    directory.mkdir(parents=True, exist_ok=True)
    files = ["-keyout", f"{directory}/key.pem", "-out", f"{directory}/cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests", *files]
    subprocess.run(command, check=True, capture_output=True)
    service = TokenService(directory)

    class Handler(Quiet):
        def do_GET(self) -> None:
            status, body = service.answer(self.path, self.headers.get("Authorization", ""))
            self.answer(status, body)

        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.answer(*service.exchange(form))

    with serving(Handler) as service.address:
        yield service


class Quiet(BaseHTTPRequestHandler):
    """HTTP/1.0: a connection for every request, so that no thread waits for a next one."""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
