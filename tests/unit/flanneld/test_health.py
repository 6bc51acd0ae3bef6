"""/healthz and /readyz: flannel's paths and texts, and clients that mean no good."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from flanneld import health as health_module
from flanneld.health import Health, HealthError, health_routes, listen, serve_health, serving
from flanneld.metrics import Exporter

LOOPBACK = ip_address("127.0.0.1")


@pytest.fixture
def health() -> Health:
    return Health("lease", "peers")


@pytest.fixture
async def port(health: Health) -> AsyncIterator[int]:
    with listen(LOOPBACK, 0) as listener:
        async with serving(listener, health_routes(health, Exporter())):
            yield listener.getsockname()[1]


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    reply = (await exchange(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).decode()
    head, _, body = reply.partition("\r\n\r\n")
    return int(head.split()[1]), body


def test_ready_once_every_condition_is_met_and_unready_when_one_fails_again() -> None:
    health = Health("lease", "peers")
    assert list(health.reasons) == ["lease: not yet", "peers: not yet"]
    health.met("lease")
    health.met("lease")
    health.met("peers")
    assert not health.reasons
    health.unmet("peers", "10.5.7.0/24: no route")
    assert list(health.reasons) == ["peers: 10.5.7.0/24: no route"]


async def test_healthz_answers_as_flannel_does_whatever_is_unmet(port: int) -> None:
    assert await ask(port, "/healthz") == (200, "flanneld is running")


async def test_readyz_is_503_with_the_reasons_until_ready(port: int, health: Health) -> None:
    assert await ask(port, "/readyz?verbose=1") == (503, "flanneld is not ready\nlease: not yet\npeers: not yet\n")
    health.met("lease")
    health.met("peers")
    assert await ask(port, "/readyz") == (200, "flanneld is ready")


async def test_head_has_the_length_but_no_body(port: int) -> None:
    reply = await exchange(port, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert reply.endswith(b"\r\n\r\n")
    assert b"Content-Length: 19\r\n" in reply


async def test_other_paths_are_404_and_other_methods_405(port: int) -> None:
    assert (await ask(port, "/"))[0] == 404
    assert (await ask(port, "/metric"))[0] == 404
    assert (await ask(port, "/healthz", "POST"))[0] == 405
    assert (await ask(port, "/readyz", "CONNECT"))[0] == 405


async def test_old_and_pipelining_clients_get_one_answer(port: int) -> None:
    assert (await exchange(port, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    twice = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2
    assert (await exchange(port, twice)).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\n\r\n", b"400"), (b"GET /" + b"a" * 9000, b"431")],
)
async def test_rubbish_is_refused(port: int, data: bytes, status: bytes) -> None:
    assert (await exchange(port, data)).startswith(b"HTTP/1.1 " + status)


async def test_client_that_leaves_early_hurts_nobody(port: int) -> None:
    for data in (b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
        _, writer = await asyncio.open_connection(str(LOOPBACK), port)
        writer.write(data)
        writer.transport.abort()
    assert (await ask(port, "/healthz"))[0] == 200


async def test_silent_clients_are_cut_off_and_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(health_module, "REQUEST_TIMEOUT_S", 0.2)
    monkeypatch.setattr(health_module, "MAX_CONNECTIONS", 2)
    clients = [await asyncio.open_connection(str(LOOPBACK), port) for _ in range(3)]
    clients[0][1].write(b"GET /healthz HTT")
    assert [await reader.read() for reader, _ in clients] == [b"", b"", b""]
    assert (await ask(port, "/healthz"))[0] == 200
    for _, writer in clients:
        writer.close()


async def test_open_connections_end_with_the_server(health: Health) -> None:
    with listen(LOOPBACK, 0) as listener:
        async with serving(listener, health_routes(health, Exporter())):
            reader, writer = await asyncio.open_connection(str(LOOPBACK), listener.getsockname()[1])
            await ask(listener.getsockname()[1], "/healthz")
        assert await reader.read() == b""
        writer.close()


async def test_port_in_use_is_an_error_that_names_it(health: Health) -> None:
    with listen(LOOPBACK, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HealthError, match=f"^cannot serve healthz-ip 127.0.0.1, healthz-port {port}: address already in use$"):
            await serve_health(LOOPBACK, port, health, Exporter()).__aenter__()


async def test_address_of_another_host_is_an_error(health: Health) -> None:
    with pytest.raises(HealthError, match="healthz-port 1: cannot assign requested address"):
        await serve_health(ip_address("192.0.2.1"), 1, health, Exporter()).__aenter__()


async def test_port_0_serves_nothing(health: Health) -> None:
    async with serve_health(LOOPBACK, 0, health, Exporter()):
        pass


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")
async def test_ipv6_any_address_answers_ipv4_too_as_in_go(health: Health) -> None:
    with listen(ip_address("::"), 0) as listener:
        async with serving(listener, health_routes(health, Exporter())):
            assert (await ask(listener.getsockname()[1], "/healthz"))[0] == 200
