"""Where an etcd is, how to trust it, and in words why it cannot be reached; must not know what is called there."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from flanneld import FlanneldError
from flanneld.log import Log, Once

log = Log(__name__)

_PROBE_TIMEOUT_S = 2.0
_VERDICT_S = 0.2
"""A TLS 1.3 server judges our certificate after our side of the handshake is over."""
# RFC 9113 §3.4: the client's preface and an empty SETTINGS frame.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


class EtcdError(FlanneldError):
    """A call to etcd failed."""


class EtcdUnavailable(EtcdError):
    """etcd did not answer, or said that it cannot serve now; the same call may succeed later."""


class EtcdRefused(EtcdError):
    """etcd, or our side, will not have it: certificate, password, permission. Waiting changes nothing."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for https endpoints; all optional, but a certificate needs its key."""

    ca: str = ""
    """Whom we trust; "": the system's certificate authorities."""
    cert: str = ""
    """Our own certificate, for an etcd that asks for one."""
    key: str = ""

    @property
    def given(self) -> bool:
        """True if there is any."""
        return bool(self.ca or self.cert or self.key)

    def context(self) -> ssl.SSLContext:
        """What a connection trusts and shows; raises EtcdRefused for a file that is missing or not what it should be."""
        if bool(self.cert) != bool(self.key):
            raise EtcdRefused(f"etcd certificate {self.cert!r} and key {self.key!r}: expected both or neither")
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except OSError as error:
            raise EtcdRefused(f"etcd CA file {self.ca!r}: {words(error)}") from error
        try:
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            raise EtcdRefused(f"etcd certificate {self.cert!r} with key {self.key!r}: {words(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        return context


class Trust:
    """The TLS context for new connections, made again when a file has changed: certificates are renewed under a running daemon."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises EtcdRefused."""
        self._files = files
        self._seen = self._stamp()
        self._context = files.context()
        self._said = Once(log)

    def context(self) -> ssl.SSLContext:
        """As the files are now; as they were, while one of them is not what it should be: it may be being written."""
        stamp = self._stamp()
        if stamp != self._seen:
            try:
                self._context, self._seen = self._files.context(), stamp
            except EtcdRefused as error:
                self._said.warning("tls", "changed TLS files not used", why=error)
            else:
                self._said.over("tls")
                log.info("TLS files read again")
        return self._context

    def _stamp(self) -> tuple[tuple[int, ...], ...]:
        """What changes when a file is written, or another one put in its place."""
        found: list[tuple[int, ...]] = []
        for path in filter(None, (self._files.ca, self._files.cert, self._files.key)):
            try:
                at = os.stat(path)
            except OSError:
                found.append((0,))
            else:
                found.append((at.st_dev, at.st_ino, at.st_mtime_ns, at.st_size))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One etcd member's client URL."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `http://host[:port]` or `https://...`; raises EtcdRefused. The port defaults to 2379."""
        expected = f"etcd endpoint {url!r}: expected http://host:port or https://host:port"
        try:
            parts = urlsplit(url.strip())
            port = 2379 if parts.port is None else parts.port
        except ValueError as error:
            raise EtcdRefused(f"{expected}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.path.strip("/") or port == 0:
            raise EtcdRefused(expected)
        return cls(parts.hostname, port, parts.scheme == "https")

    @property
    def target(self) -> str:
        """host:port, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.target}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with one endpoint."""

    endpoint: Endpoint
    why: str
    """In words; "" when nothing was found."""
    fatal: bool = False
    """Waiting will not change it."""


async def diagnose(endpoint: Endpoint, trust: Trust | None) -> Diagnosis:
    """Connect once as a call would, with at most a few seconds' wait, and say what happens."""
    try:
        answer = await _greet(endpoint, trust.context() if trust is not None and endpoint.tls else None)
        why = "" if answer else "closes the connection without an answer"
    except ssl.SSLCertVerificationError as error:
        return Diagnosis(endpoint, f"certificate verify failed: {error.verify_message.lower()}", fatal=True)
    except ssl.SSLError as error:
        if "CERTIFICATE" in (error.reason or ""):
            return Diagnosis(endpoint, f"asks for a client certificate, or does not accept ours: {words(error)}", fatal=True)
        why = f"TLS handshake failed: {words(error)}"
    except (ConnectionResetError, ConnectionAbortedError):
        why = "closes the connection"
    except TimeoutError:
        return Diagnosis(endpoint, f"no answer in {_PROBE_TIMEOUT_S:g} s")
    except OSError as error:
        return Diagnosis(endpoint, words(error))
    if why and await _speaks_the_other(endpoint):
        how = "without TLS: expected http://" if endpoint.tls else "with TLS only: expected https://"
        return Diagnosis(endpoint, f"answers {how}", fatal=True)
    return Diagnosis(endpoint, why)


async def _greet(endpoint: Endpoint, context: ssl.SSLContext | None) -> bytes:
    """Begin HTTP/2 and return the first bytes of the answer; b"" if there is none."""
    async with asyncio.timeout(_PROBE_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
        try:
            if context is not None:
                # What reaches a server that has closed already is answered by a reset, which may overtake its verdict.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_VERDICT_S):
                        return await reader.read(64)
            writer.write(_HTTP2_PREFACE)
            return await reader.read(64)
        finally:
            writer.transport.abort()


async def _speaks_the_other(endpoint: Endpoint) -> bool:
    """True if the server speaks TLS where we took it for plain HTTP, or the other way round."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    try:
        return bool(await _greet(endpoint, None if endpoint.tls else anyone))
    except ssl.SSLError as error:
        # Only a TLS server sends alerts, such as the one that asks for our certificate.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def words(error: OSError) -> str:
    """What the system, or TLS, has to say."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    # asyncio puts words of its own into strerror; getaddrinfo's numbers are negative, and strerror has theirs.
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)).lower()
