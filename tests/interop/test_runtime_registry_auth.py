"""Registries that want to know who asks, that have mirrors, that speak TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import EngineError, Forbidden, NotFound, Unauthorized
from runtime.images.registry import Credentials, RegistrySettings, login
from runtime.images.registry.refusals import Protocol, Unreachable
from runtime.images.registry.settings import Endpoint
from runtime.images.registry.transport import Request, Transport
from runtime_image_store import image_store, lines
from runtime_registry import (
    IDENTITY,
    PASSWORD,
    USER,
    Registry,
    RemoteImage,
    TokenService,
    htpasswd,
    mirror_of,
    registry,
    token_service,
)
from runtime_registry_proxy import cut_after, flip, proxy, status

pytestmark = pytest.mark.root

ANN = Credentials(USER, PASSWORD)
IMPOSTOR = Credentials(USER, "wrong")
IMAGE = RemoteImage.of({"a": b"1"})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("plain"), "") as found:
        found.put_image("library/app", "1", IMAGE)
        found.put_image("app", "1", IMAGE)
        yield found


async def test_a_password_is_asked_for(plain: Registry, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", htpasswd(tmp_path)) as locked:
        async with image_store(tmp_path) as store:
            await store.pull(f"{plain.address}/app:1")
            store.tag(f"{plain.address}/app:1", f"{locked.address}/app:1")
            await store.push(f"{locked.address}/app:1", ANN)
            await store.pull(f"{locked.address}/app:1", "", ANN)
            with pytest.raises(Unauthorized, match="no basic auth credentials"):
                await store.pull(f"{locked.address}/app:1")
            with pytest.raises(Unauthorized, match="unauthorized: authentication required"):
                await store.push(f"{locked.address}/app:1", IMPOSTOR)
            assert await login(store.registries, replace(ANN, server=locked.address)) == "Login Succeeded"
            with pytest.raises(Unauthorized, match=r"login attempt to http://.*/v2/ failed with status: 401 Unauthorized"):
                await login(store.registries, replace(IMPOSTOR, server=locked.address))


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    with token_service(tmp_path_factory.mktemp("issuer")) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(issuer: TokenService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("guarded"), issuer.configuration) as found:
        yield found


async def test_tokens_are_fetched_once_a_scope_and_are_enough_for_all_of_it(
    plain: Registry, guarded: Registry, issuer: TokenService, tmp_path: Path
) -> None:
    async with image_store(tmp_path) as store:
        await store.pull(f"{plain.address}/app:1")
        store.tag(f"{plain.address}/app:1", f"{guarded.address}/team/app:1")
        issuer.asked.clear()
        await store.push(f"{guarded.address}/team/app:1", ANN)
        await store.push(f"{guarded.address}/team/app:1", ANN)
        assert issuer.asked == [("repository:team/app:pull,push",)]
        issuer.asked.clear()
        await store.pull(f"{guarded.address}/team/app:1")
        assert issuer.asked == [("repository:team/app:pull",)]
        issuer.asked.clear()
        store.tag(f"{plain.address}/app:1", f"{guarded.address}/team/copy:1")
        told = lines(await store.push(f"{guarded.address}/team/copy:1", ANN))
        assert any(line.endswith("Mounted from team/app") for line in told)
        assert ("repository:team/copy:pull,push", "repository:team/app:pull") in issuer.asked


async def test_what_a_token_does_not_allow_is_denied_in_dockers_words(plain: Registry, guarded: Registry, tmp_path: Path) -> None:
    async with image_store(tmp_path) as store:
        await store.pull(f"{plain.address}/app:1")
        store.tag(f"{plain.address}/app:1", f"{guarded.address}/private/app:1")
        with pytest.raises(Forbidden, match="denied: requested access to the resource is denied"):
            await store.push(f"{guarded.address}/private/app:1")
        await store.push(f"{guarded.address}/private/app:1", ANN)
        with pytest.raises(
            NotFound, match=r"pull access denied for .*/private/app, repository does not exist or may require 'docker login'"
        ):
            await store.pull(f"{guarded.address}/private/app:1")
        with pytest.raises(Unauthorized, match="unauthorized: incorrect username or password"):
            await store.pull(f"{guarded.address}/private/app:1", "", IMPOSTOR)
        await store.pull(f"{guarded.address}/private/app:1", "", ANN)
        assert await login(store.registries, replace(ANN, server=guarded.address)) == "Login Succeeded"


async def test_credentials_do_not_go_where_a_registry_redirects(plain: Registry, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", htpasswd(tmp_path)) as locked, proxy(locked) as between, proxy(plain) as cdn:
        async with image_store(tmp_path) as store:
            await store.pull(f"{plain.address}/app:1")
            store.tag(f"{plain.address}/app:1", f"{locked.address}/app:1")
            await store.push(f"{locked.address}/app:1", ANN)
        between.fail("GET .*/blobs/", status(307, Location=f"http://{cdn.address}/v2/app/blobs/{IMAGE.id}"), times=9)
        async with image_store(tmp_path / "other") as other:
            with pytest.raises(EngineError):
                await other.pull(f"{between.address}/app:1", "", ANN)
        assert cdn.count("GET") >= 1
        assert not any("authorization" in headers for _, headers in cdn.seen)
        assert any("authorization" in headers for _, headers in between.seen)


async def test_the_hubs_images_come_from_a_mirror_and_credentials_do_not_go_there(plain: Registry, tmp_path: Path) -> None:
    with registry(tmp_path / "mirror", mirror_of(plain)) as copy, proxy(copy) as mirror:
        settings = RegistrySettings(mirrors=(f"http://{mirror.address}",), hub="http://127.0.0.1:1")
        async with image_store(tmp_path, settings) as store:
            told = lines(await store.pull("app:1", "", ANN))
        assert told[0] == "1: Pulling from library/app"
        assert told[-1] == "Status: Downloaded newer image for app:1"
        assert mirror.count("GET .*/v2/library/app/blobs/") == 2
        assert not any("authorization" in headers for _, headers in mirror.seen)


@pytest.mark.parametrize("fault", [flip, status(500), status(404), status(401), cut_after(5)])
async def test_a_mirror_that_fails_in_any_way_is_gone_round(plain: Registry, tmp_path: Path, fault: object) -> None:
    with proxy(plain) as mirror, proxy(plain) as hub:
        settings = RegistrySettings(mirrors=("http://127.0.0.1:1", f"http://{mirror.address}"), hub=f"http://{hub.address}")
        mirror.fail("GET .*/blobs/", fault, times=99)  # type: ignore[arg-type]  # parametrize's are objects
        async with image_store(tmp_path, settings) as store:
            await store.pull("app:1")
            assert store.read("app:1", "a") == b"1"
        assert mirror.count("manifests") == 1
        assert hub.count("manifests") == 0
        assert hub.count("blobs") == 2


def _certificate(directory: Path) -> tuple[Path, Path]:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    key, certificate = directory / "key.pem", directory / "cert.pem"
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Path]]:
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = _certificate(directory)
    with registry(directory, tls=(certificate, key)) as found:
        yield found, certificate


async def test_a_certificate_has_to_be_trusted(encrypted: tuple[Registry, Path], tmp_path: Path) -> None:
    there, certificate = encrypted
    transport, endpoint = Transport(tmp_path), Endpoint(f"https://{there.address}")
    with pytest.raises(Unreachable, match="tls: failed to verify certificate: x509: self-signed certificate"):
        await transport.open(endpoint, Request("GET", f"{endpoint.url}/v2/"))
    await transport.aclose()
    (tmp_path / there.address).mkdir()
    (tmp_path / there.address / "ca.crt").write_bytes(certificate.read_bytes())
    transport = Transport(tmp_path)
    response = await transport.open(endpoint, Request("GET", f"{endpoint.url}/v2/"))
    await response.aclose()
    await transport.aclose()
    assert response.status_code == 200


async def test_a_registry_on_this_machine_may_have_any_certificate(encrypted: tuple[Registry, Path], tmp_path: Path) -> None:
    there, _ = encrypted
    async with image_store(tmp_path) as store:
        with pytest.raises(NotFound, match="manifest unknown"):
            await store.pull(f"{there.address}/none:1")


async def test_one_that_was_reached_by_tls_does_not_send_us_on_without(plain: Registry, tmp_path: Path) -> None:
    with proxy(plain) as elsewhere:
        transport = Transport(tmp_path)
        endpoint = Endpoint(f"http://{elsewhere.address}", may_be_plain=False)
        elsewhere.fail("GET", status(302, Location=f"http://{plain.address}/v2/"))
        with pytest.raises(Protocol, match="refused to follow"):
            await transport.open(endpoint, Request("GET", f"{endpoint.url}/v2/"))
        await transport.aclose()


async def test_an_identity_token_is_exchanged(plain: Registry, guarded: Registry, issuer: TokenService, tmp_path: Path) -> None:
    async with image_store(tmp_path) as store:
        await store.pull(f"{plain.address}/app:1")
        store.tag(f"{plain.address}/app:1", f"{guarded.address}/team/identity:1")
        await store.push(f"{guarded.address}/team/identity:1", Credentials(identity_token=IDENTITY))
