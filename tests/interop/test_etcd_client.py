"""Our etcd client against real etcd: transport security, authentication, several endpoints, watches, and errors in words."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from etcd_server import Certificates, EtcdServer, etcd_server, make_certificates
from flanneld.etcd import Change, Compacted, EtcdClient, EtcdRefused, EtcdUnavailable, KeyValue, TlsFiles
from flanneld.etcd.endpoint import Endpoint
from flanneld.flags import Options
from flanneld.lease import LeaseAttrs
from flanneld.stores.etcd import open_etcd_store

A_WHILE_S = 30
NOBODY = "http://127.0.0.1:9"
"""The discard service, which no machine has had for decades."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path_factory.mktemp("plain")) as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path_factory.mktemp("secure"), certificates=certificates) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path_factory.mktemp("mutual"), certificates=certificates, client_certificates=True) as server:
        yield server


@asynccontextmanager
async def connected(
    *endpoints: str, tls: TlsFiles | None = None, user: tuple[str, str] = ("", ""), timeout_s: float = 5
) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(endpoints, tls=tls, user=user, timeout_s=timeout_s)
    try:
        yield client
    finally:
        await client.close()


async def refusal(server: EtcdServer, url: str, tls: TlsFiles) -> str:
    async with connected(url, tls=tls) as client:
        with pytest.raises(EtcdRefused) as refused:
            await client.get("a")
    return str(refused.value).removeprefix(f"etcd at {url}: ")


async def test_a_ca_alone_is_enough_for_tls(secure: EtcdServer, certificates: Certificates) -> None:
    async with connected(secure.endpoint, tls=TlsFiles(ca=str(certificates.ca))) as client:
        assert await client.get("a") is None


async def test_a_client_certificate_is_shown_to_an_etcd_that_asks(mutual: EtcdServer, certificates: Certificates) -> None:
    tls = TlsFiles(str(certificates.ca), str(certificates.client), str(certificates.client_key))
    async with connected(mutual.endpoint, tls=tls) as client:
        assert await client.get("a") is None


async def test_a_renewed_client_certificate_is_shown_on_the_next_connection(
    mutual: EtcdServer, certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    cert.write_bytes(certificates.client.read_bytes())
    key.write_bytes(certificates.client_key.read_bytes())
    async with connected(mutual.endpoint, tls=TlsFiles(str(certificates.ca), str(cert), str(key))) as client:
        await client.get("a")
        cert.write_text("half of it")
        for _ in range(2):
            client.reconnect()
            await client.get("a")  # with the old one
        assert [record.getMessage() for record in caplog.records] == ["changed TLS files not used"]
        cert.write_bytes(certificates.stranger.read_bytes())
        key.write_bytes(certificates.stranger.with_suffix(".key").read_bytes())
        client.reconnect()
        with pytest.raises(EtcdRefused, match="does not accept ours"):
            await client.get("a")
        cert.write_bytes(certificates.client.read_bytes())
        key.write_bytes(certificates.client_key.read_bytes())
        assert await client.get("a") is None


async def test_another_authority_is_trusted_from_the_next_connection_on(
    secure: EtcdServer, certificates: Certificates, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificates.stranger.read_bytes())
    async with connected(secure.endpoint, tls=TlsFiles(str(ca))) as client:
        with pytest.raises(EtcdRefused):
            await client.get("a")
        (tmp_path / "new.pem").write_bytes(certificates.ca.read_bytes())
        (tmp_path / "new.pem").rename(ca)
        assert await client.get("a") is None


async def test_a_certificate_of_a_strange_authority_is_refused_in_words(secure: EtcdServer, certificates: Certificates) -> None:
    said = await refusal(secure, secure.endpoint, TlsFiles(ca=str(certificates.stranger)))
    assert said == "certificate verify failed: unable to get local issuer certificate"


async def test_a_certificate_for_another_name_is_refused_in_words(secure: EtcdServer, certificates: Certificates) -> None:
    url = f"https://ip6-localhost:{secure.port}".replace("ip6-localhost", "0.0.0.0")  # noqa: S104  # reaches loopback
    said = await refusal(secure, url, TlsFiles(ca=str(certificates.ca)))
    assert said.startswith("certificate verify failed: ip address mismatch")


async def test_a_missing_client_certificate_is_said_in_words(mutual: EtcdServer, certificates: Certificates) -> None:
    said = await refusal(mutual, mutual.endpoint, TlsFiles(ca=str(certificates.ca)))
    assert said.startswith("asks for a client certificate, or does not accept ours: ")


async def test_https_to_a_plain_etcd_is_said_in_words(plain: EtcdServer) -> None:
    said = await refusal(plain, plain.endpoint.replace("http", "https"), TlsFiles())
    assert said == "answers without TLS: expected http://"


@pytest.mark.parametrize("which", ["secure", "mutual"])
async def test_http_to_a_tls_etcd_is_said_in_words(request: pytest.FixtureRequest, which: str) -> None:
    server: EtcdServer = request.getfixturevalue(which)
    said = await refusal(server, server.endpoint.replace("https", "http"), TlsFiles())
    assert said == "answers with TLS only: expected https://"


async def test_nobody_at_any_endpoint_may_pass_and_names_each() -> None:
    async with connected(NOBODY, "http://127.0.0.1:10") as client:
        with pytest.raises(EtcdUnavailable) as unavailable:
            await client.get("a")
    assert str(unavailable.value) == f"etcd at {NOBODY}: connection refused; etcd at http://127.0.0.1:10: connection refused"


async def test_an_etcd_that_falls_silent_is_unavailable(tmp_path: Path) -> None:
    with etcd_server(tmp_path) as server:
        async with connected(server.endpoint, timeout_s=0.5) as client:
            await client.get("a")
            server.pause()
            with pytest.raises(EtcdUnavailable, match="no answer in 2 s"):
                await client.get("a")


async def test_a_watch_notices_that_its_connection_is_dead(tmp_path: Path) -> None:
    with etcd_server(tmp_path) as server:
        async with connected(server.endpoint) as client, client.watch("a", 1) as watch:
            server.pause()
            async with asyncio.timeout(A_WHILE_S):
                with pytest.raises(EtcdUnavailable):
                    await watch.changes()


async def test_a_watch_over_tls_notices_it_too_and_closing_does_not_wait(tmp_path: Path, certificates: Certificates) -> None:
    tls = TlsFiles(ca=str(certificates.ca))
    with etcd_server(tmp_path, certificates=certificates) as server:
        async with connected(server.endpoint, tls=tls, timeout_s=0.5) as client, client.watch("a", 1) as watch:
            server.pause()
            async with asyncio.timeout(A_WHILE_S):
                with pytest.raises(EtcdUnavailable):
                    await watch.changes()
                async with asyncio.timeout(1):
                    await client.close()


async def test_calls_fail_over_to_the_endpoint_that_answers(plain: EtcdServer) -> None:
    async with connected(NOBODY, plain.endpoint) as client:
        await asyncio.gather(*(client.get("a") for _ in range(5)))
        async with client.watch("fail-over/", 1):
            pass


async def test_an_endpoint_that_dies_is_left_for_the_other(tmp_path: Path, plain: EtcdServer) -> None:
    with etcd_server(tmp_path) as dying:
        async with connected(dying.endpoint, plain.endpoint) as client:
            await client.get("a")
            dying.kill()
            assert await client.get("a") is None


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """Authentication on: root may do all, `host` (password `word`) only what is under /net/."""
    with etcd_server(tmp_path_factory.mktemp("guarded")) as server:
        for command in (
            "user add root:secret",
            "user add host:word",
            "role add hosts",
            "role grant-permission hosts readwrite /net/ --prefix=true",
            "user grant-role host hosts",
            "auth enable",
        ):
            server.ctl(*command.split())
        server.user = "root:secret"
        yield server


async def test_a_user_calls_with_a_token(guarded: EtcdServer) -> None:
    async with connected(guarded.endpoint, user=("host", "word")) as client:
        lease = await client.grant(60)
        assert await client.create("/net/a", b"1", lease=lease, prefix="/net/") is not None
        assert await client.keep_alive(lease) == 60
        async with client.watch("/net/", 1) as watch:
            assert [change.key for change in await watch.changes()] == ["/net/a"]
        await client.revoke(lease)


@pytest.mark.parametrize(
    ("user", "key", "said"),
    [
        (("host", "wrong"), "/net/a", "authentication failed, invalid user ID or password"),
        (("host", "word"), "/elsewhere", "permission denied"),
        (("", ""), "/net/a", "user name is empty"),
    ],
)
async def test_who_may_not_is_refused(guarded: EtcdServer, user: tuple[str, str], key: str, said: str) -> None:
    async with connected(guarded.endpoint, user=user) as client:
        with pytest.raises(EtcdRefused, match=said):
            await client.get(key)


async def test_a_token_that_etcd_forgot_is_renewed(guarded: EtcdServer) -> None:
    async with connected(guarded.endpoint, user=("host", "word")) as client:
        await client.get("/net/a")
        guarded.kill()
        guarded.start()
        assert await client.get("/net/a") is None


async def test_a_token_from_before_a_change_of_rights_is_renewed(guarded: EtcdServer) -> None:
    async with connected(guarded.endpoint, user=("host", "word")) as client:
        await client.get("/net/a")
        guarded.ctl("role", "add", "another")
        assert await client.get("/net/a") is None


async def test_a_user_name_where_authentication_is_off_does_no_harm(plain: EtcdServer) -> None:
    async with connected(plain.endpoint, user=("host", "word")) as client:
        assert await client.get("a") is None


async def test_what_is_written_on_a_condition_is_written_only_then(plain: EtcdServer) -> None:
    async with connected(plain.endpoint) as client:
        listing = await client.create("/txn/a", b"1", lease=0, prefix="/txn/")
        assert listing is not None
        (first,) = listing.keys
        assert first == KeyValue("/txn/a", b"1", 0, listing.revision, listing.revision)
        assert await client.create("/txn/a", b"2", lease=0, prefix="/txn/") is None
        assert await client.replace(first, b"3", lease=0)
        assert not await client.replace(first, b"4", lease=0)
        assert not await client.delete(first)
        (third,) = (await client.get_prefix("/txn/")).keys
        assert third.value == b"3"
        assert await client.delete(third)
        assert await client.get("/txn/a") is None


async def test_an_etcd_lease_that_is_gone_is_no_error(plain: EtcdServer) -> None:
    async with connected(plain.endpoint) as client:
        lease = await client.grant(60)
        await client.revoke(lease)
        await client.revoke(lease)
        assert await client.keep_alive(lease) == 0
        assert await client.time_to_live(lease) == 0
        assert await client.create("/gone/a", b"", lease=lease, prefix="/gone/") is None


async def test_a_watch_delivers_puts_and_deletes_in_order_and_together(plain: EtcdServer) -> None:
    async with connected(plain.endpoint) as client:
        start = (await client.get_prefix("/watch/")).revision + 1
        async with client.watch("/watch/", start) as watch:
            plain.ctl("put", "/watch/a", "1")
            plain.ctl("put", "/watched/not", "1")
            plain.ctl("del", "/watch/a")
            await asyncio.sleep(0.2)
            put, delete = await watch.changes()
            assert put.now is not None
            assert (put.key, put.now.value) == ("/watch/a", b"1")
            assert delete == Change("/watch/a", None)


async def test_a_watch_from_before_the_compaction_says_so(plain: EtcdServer) -> None:
    async with connected(plain.endpoint) as client:
        plain.ctl("put", "/old/a", "1")
        plain.ctl("put", "/old/a", "2")
        revision = (await client.get_prefix("/old/")).revision
        plain.ctl("compact", str(revision))
        with pytest.raises(Compacted):
            async with client.watch("/old/", revision - 1) as watch:
                await watch.changes()


async def test_a_list_may_be_longer_than_any_window_or_frame(plain: EtcdServer) -> None:
    async with connected(plain.endpoint) as client:
        for name in "abcde":
            assert await client.create(f"/long/{name}", name.encode() * 1_000_000, lease=0, prefix="/nothing/") is not None
        listing = await client.get_prefix("/long/")
        assert [(key.key[-1:].encode(), set(key.value), len(key.value)) for key in listing.keys] == [
            (bytes((byte,)), {byte}, 1_000_000) for byte in b"abcde"
        ]


async def test_keys_that_are_not_text_can_be_listed(plain: EtcdServer) -> None:
    async with connected(plain.endpoint) as client:
        plain.ctl("put", b"/bytes/\xff\xfe".decode(errors="surrogateescape"), "1")
        (key,) = (await client.get_prefix("/bytes/")).keys
        assert key.key == "/bytes/\\xff\\xfe"


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "http://", "ftp://h:1", "http://h:0", "http://h:99999", "http://[::1", "http://h:1/v3", "http://u:p@h:1"],
)
def test_a_bad_url_is_refused_and_named(url: str) -> None:
    with pytest.raises(EtcdRefused, match="expected http://host:port") as refused:
        Endpoint.parse(url)
    assert repr(url) in str(refused.value)


def test_endpoints_read_as_they_are_written() -> None:
    assert str(Endpoint.parse("https://[fd00::1]:2379/")) == "https://[fd00::1]:2379"
    assert Endpoint.parse("http://etcd") == Endpoint("etcd", 2379, tls=False)


def test_bad_tls_files_are_refused_and_named(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no PEM")
    for files, said in (
        (TlsFiles(ca="/nowhere"), "'/nowhere': no such file or directory"),
        (TlsFiles(ca=str(tmp_path / "text")), "text': no certificate or crl found"),
        (TlsFiles(cert=str(certificates.client)), "expected both or neither"),
        (TlsFiles(cert=str(certificates.client), key=str(certificates.server_key)), "key values mismatch"),
    ):
        with pytest.raises(EtcdRefused, match=said):
            files.context()


async def test_the_documented_role_is_enough(tmp_path: Path, certificates: Certificates) -> None:
    """The commands are those of docs/etcd.md, to the letter."""
    page = (Path(__file__).parents[2] / "docs/etcd.md").read_text()
    commands = re.findall(r"^etcdctl (.*)$", page, re.MULTILINE)
    assert len(commands) == 5
    with etcd_server(tmp_path, certificates=certificates) as server:
        server.ctl("put", "/coreos.com/network/config", '{"Network": "10.5.0.0/16"}')
        for command in commands:
            server.ctl(*shlex.split(command))
        for command in ("user add root:root", "user grant-role root root", "auth enable"):
            server.ctl(*command.split())
        server.user = "root:root"
        options = replace(
            Options(),
            etcd_endpoints=(server.endpoint,),
            etcd_cafile=str(certificates.ca),
            etcd_username="flanneld",
            etcd_password="secret",  # noqa: S106  # of the page
        )
        store = open_etcd_store(options)
        try:
            network, attrs = await store.network(), LeaseAttrs((ip_address("192.0.2.1"),))
            lease = await store.acquire(network, attrs)
            assert (await store.renew(await store.hold(lease, attrs))).subnets == lease.subnets
            async with aclosing(store.watch()) as watch:
                assert set((await anext(watch)).leases) == {lease.subnets}
            await store.release(lease)
            assert not await store.leases()
        finally:
            await store.close()
