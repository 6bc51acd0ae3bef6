"""Pulls and pushes against Debian's docker-registry, and against registries that misbehave."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from runtime.errors import EngineError, InvalidParameter, NotFound
from runtime.images.distribution import distribution
from runtime.images.pull import pull
from runtime.images.reference import parse_reference
from runtime.images.registry import RegistrySettings, SearchResult, search
from runtime_image_store import Store, image_store, lines
from runtime_images import digest_of, image_config, layer_tar
from runtime_registry import OCI_INDEX, OCI_MANIFEST, Registry, RemoteImage, registry
from runtime_registry_proxy import Fault, Proxy, ProxyHandler, Upstream, cut_after, endless, flip, instead, proxy, status

pytestmark = pytest.mark.root

NOISE = random.Random(1).randbytes(300_000)
IMAGE = RemoteImage.of({"etc/name": b"lower", "low": b"1"}, {"etc/name": b"upper", "noise": NOISE})
LAYERS = [digest_of(blob).removeprefix("sha256:")[:12] for blob in IMAGE.blobs]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        found.put_image("app", "1", IMAGE)
        yield found


@pytest.fixture
def between(there: Registry) -> Iterator[Proxy]:
    with proxy(there) as found:
        yield found


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with image_store(tmp_path) as found:
        yield found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits before further tries are not what is tested."""
    monkeypatch.setattr("runtime.images.registry.downloads.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("runtime.images.registry.repository.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("runtime.images.push.FIRST_WAIT_S", 0.01)


async def test_a_pull_is_told_in_dockers_lines(there: Registry, store: Store) -> None:
    told = lines(await store.pull(f"{there.address}/app:1"))
    digest = there.request("HEAD", "/v2/app/manifests/1", Accept=str(IMAGE.media_type))[1]["docker-content-digest"]
    assert told[0] == "1: Pulling from app"
    assert told[1:3] == [f"{layer}: Pulling fs layer" for layer in LAYERS]
    for layer in LAYERS:
        own = [line.removeprefix(f"{layer}: ") for line in told if line.startswith(layer)]
        assert own == ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
    assert told[-2:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {there.address}/app:1"]
    assert store.read(f"{there.address}/app:1", "etc/name") == b"upper"
    assert store.images.find(f"{there.address}/app@{digest}").id == IMAGE.id


async def test_what_is_here_is_not_pulled_again(there: Registry, between: Proxy, store: Store) -> None:
    await store.pull(f"{there.address}/app:1")
    assert lines(await store.pull(f"{there.address}/app:1"))[-1] == f"Status: Image is up to date for {there.address}/app:1"
    assert lines(await store.pull(f"{between.address}/app:1"))[-1] == f"Status: Downloaded newer image for {between.address}/app:1"
    assert between.count("GET .*/blobs/") == 0
    other = RemoteImage.of({"etc/name": b"lower", "low": b"1"}, {"other": b"2"})
    there.put_image("app", "2", other)
    assert f"{LAYERS[0]}: Already exists" in lines(await store.pull(f"{there.address}/app:2"))


async def test_an_index_is_pulled_for_a_platform_and_named_by_its_own_digest(there: Registry, store: Store) -> None:
    kinds = {"media_type": OCI_MANIFEST, "layer_type": "application/vnd.oci.image.layer.v1.tar", "config_type": ""}
    entries = []
    for architecture in ("arm64", "amd64"):
        tar = layer_tar({"machine": architecture.encode()})
        image = RemoteImage(image_config([tar], architecture=architecture), (tar,), **kinds)
        digest = there.put_image("multi", "", image)
        size = len(json.dumps(image.manifest))
        platform = {"os": "linux", "architecture": architecture}
        entries.append({"mediaType": OCI_MANIFEST, "digest": digest, "size": size, "platform": platform})
    digest = there.put_manifest("multi", "all", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, OCI_INDEX)
    await store.pull(f"{there.address}/multi:all", "linux/arm64")
    name = f"{there.address}/multi@{digest}"
    assert store.read(name, "machine") == b"arm64"
    with pytest.raises(NotFound, match=r"no matching manifest for linux/riscv64 in the manifest list entries"):
        await store.pull(name, "linux/riscv64")
    found = await distribution(store.registries, parse_reference(name), None)
    assert [platform.architecture for platform in found.platforms] == ["arm64", "amd64"]
    assert found.descriptor.digest == digest


async def test_a_repository_is_pulled_with_all_its_tags(there: Registry, store: Store) -> None:
    for tag in ("a", "b"):
        there.put_image("tags", tag, RemoteImage.of({"tag": tag.encode()}))
    told = lines(await store.pull(f"{there.address}/tags"))
    assert [line for line in told if "Pulling from" in line] == ["a: Pulling from tags", "b: Pulling from tags"]
    assert told[-1] == f"Status: Downloaded newer image for {there.address}/tags"
    assert store.read(f"{there.address}/tags:b", "tag") == b"b"


async def test_what_is_not_there_is_told_in_dockers_words(there: Registry, store: Store) -> None:
    with pytest.raises(NotFound, match=r"manifest for .*/app:none not found: manifest unknown: manifest unknown"):
        await store.pull(f"{there.address}/app:none")
    with pytest.raises(EngineError, match=r"dial tcp 127\.0\.0\.1:1: connect: connection refused"):
        await store.pull("127.0.0.1:1/app:1")


async def test_a_broken_download_goes_on_where_it_broke_off(between: Proxy, store: Store) -> None:
    big = digest_of(IMAGE.blobs[1])
    between.fail(f"GET .*{big}", cut_after(3000), times=2)
    await store.pull(f"{between.address}/app:1")
    ranges = [headers.get("range") for request, headers in between.seen if big in request]
    assert ranges == [None, "bytes=3000-", "bytes=6000-"]
    assert store.read(f"{between.address}/app:1", "noise") == NOISE


async def test_a_registry_that_cannot_go_on_in_the_middle_begins_anew(between: Proxy, store: Store) -> None:
    big = digest_of(IMAGE.blobs[1])
    between.fail(f"GET .*{big}", cut_after(3000))
    between.fail(f"GET .*{big}", lambda handler, _: handler.answer(200, IMAGE.blobs[1]))
    await store.pull(f"{between.address}/app:1")
    assert store.read(f"{between.address}/app:1", "noise") == NOISE


def _half_then_wait(body: bytes, half_sent: threading.Event, go_on: threading.Event) -> Fault:
    def fault(handler: ProxyHandler, found: Upstream) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        half_sent.set()
        go_on.wait(20)
        handler.wfile.write(body[len(body) // 2 :])

    return fault


async def test_a_pull_that_was_given_up_leaves_nothing_but_a_good_start(between: Proxy, store: Store) -> None:
    big, half_sent, go_on = digest_of(IMAGE.blobs[1]), threading.Event(), threading.Event()
    between.fail(f"GET .*{big}", _half_then_wait(IMAGE.blobs[1], half_sent, go_on))
    reference = parse_reference(f"{between.address}/app:1")
    pulling = asyncio.ensure_future(store.pull(reference.familiar))
    await asyncio.to_thread(half_sent.wait, 20)
    await asyncio.sleep(0.05)
    pulling.cancel()
    with suppress(asyncio.CancelledError):
        await pulling
    go_on.set()
    assert store.images.list() == []
    assert [Path(path).parent.name for path in store.left_behind()] == ["partial"]
    await store.pull(reference.familiar)
    assert store.read(reference.familiar, "noise") == NOISE
    assert store.left_behind() == []


async def test_two_pulls_at_once_fetch_every_blob_once(between: Proxy, store: Store) -> None:
    name = f"{between.address}/app:1"
    first, second = await asyncio.gather(store.pull(name), store.pull(name))
    for blob in IMAGE.blobs:
        assert between.count(f"GET .*{digest_of(blob)}") == 1
    assert {f"{layer}: Pull complete" for layer in LAYERS} <= set(lines(first)) & set(lines(second))


async def test_when_the_first_of_two_pulls_is_given_up_the_second_goes_on(between: Proxy, store: Store) -> None:
    big, half_sent, go_on = digest_of(IMAGE.blobs[1]), threading.Event(), threading.Event()
    between.fail(f"GET .*{big}", _half_then_wait(IMAGE.blobs[1], half_sent, go_on))
    name = f"{between.address}/app:1"
    first = asyncio.ensure_future(store.pull(name))
    await asyncio.to_thread(half_sent.wait, 20)
    second = asyncio.ensure_future(store.pull(name))
    await asyncio.sleep(0.1)
    first.cancel()
    await second
    go_on.set()
    assert store.read(name, "noise") == NOISE


BIG = digest_of(IMAGE.blobs[1])


@pytest.mark.parametrize(
    ("request_", "fault", "times", "why"),
    [
        (f"GET .*{BIG}", flip, 9, "digest"),
        (f"GET .*{BIG}", instead(b"short"), 9, "has 5 bytes, expected"),
        (f"GET .*{BIG}", endless, 9, "longer than its"),
        (f"GET .*{BIG}", status(302, Location=f"/v2/app/blobs/{BIG}"), 99, "stopped after 5 redirects"),
        (f"GET .*{BIG}", status(302, Location="file:///etc/passwd"), 9, "expected a URL"),
        (f"GET .*{BIG}", status(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"unknown"}]}'), 9, "blob unknown"),
        (f"GET .*{BIG}", status(500), 99, "received unexpected HTTP status: 500 Internal Server Error"),
        (f"GET .*{BIG}", cut_after(0), 99, "incomplete|peer closed|EOF"),
        ("GET .*manifests", flip, 9, "manifest verification failed|invalid manifest"),
        ("GET .*manifests", endless, 9, "more than the 4194304 bytes"),
        (f"GET .*{IMAGE.id}", instead(b"{}"), 9, "has the digest"),
        (f"GET .*{IMAGE.id}", endless, 9, "more than the .* bytes"),
    ],
)
async def test_what_a_bad_registry_sends_is_kept_nowhere(
    between: Proxy, store: Store, request_: str, fault: Fault, times: int, why: str
) -> None:
    between.fail(request_, fault, times)
    with pytest.raises(EngineError, match=why):
        await store.pull(f"{between.address}/app:1")
    assert store.images.list() == []
    assert not store.images.content.has(BIG)
    between.faults.clear()
    await store.pull(f"{between.address}/app:1")
    assert store.read(f"{between.address}/app:1", "noise") == NOISE


@pytest.mark.parametrize("diff_ids", [[], ["a" * 64], ["../../x", "b" * 64], ["a" * 64, "b" * 64]])
async def test_a_config_that_does_not_fit_its_layers_is_no_image(there: Registry, store: Store, diff_ids: list[str]) -> None:
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in diff_ids]},
    }
    there.put_image("lies", "1", RemoteImage(json.dumps(config).encode(), IMAGE.blobs))
    with pytest.raises(EngineError):
        await store.pull(f"{there.address}/lies:1")
    assert store.images.list() == []
    assert store.images.layers.chains() == []


async def test_a_registry_that_is_busy_is_asked_again(between: Proxy, store: Store) -> None:
    between.fail("GET .*manifests", status(429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow"}]}', Retry_After="0"))
    between.fail("GET .*blobs", status(503), times=2)
    await store.pull(f"{between.address}/app:1")
    between.fail("GET .*manifests", status(429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow"}]}', Retry_After="3600"))
    with pytest.raises(EngineError, match="toomanyrequests: slow"):
        await store.pull(f"{between.address}/app:1")


async def test_blobs_may_be_elsewhere(there: Registry, between: Proxy, store: Store) -> None:
    with proxy(there) as cdn:
        between.fail(f"GET .*{BIG}", status(307, Location=f"http://{cdn.address}/v2/app/blobs/{BIG}"))
        await store.pull(f"{between.address}/app:1")
        assert cdn.count("GET") == 1
    assert store.read(f"{between.address}/app:1", "noise") == NOISE


async def test_a_client_that_reads_slowly_does_not_hold_up_the_pull(there: Registry, store: Store) -> None:
    reference = parse_reference(f"{there.address}/app:1")
    async with aclosing(pull(store.images, store.registries, reference, "", None)) as told:
        await anext(told)
        for _ in range(1000):
            if store.images.list():
                return
            await asyncio.sleep(0.02)
        pytest.fail("the pull waits for its reader")


async def test_an_image_goes_back_with_the_digest_that_it_came_with(there: Registry, store: Store) -> None:
    digest = there.put_image("app", "1", IMAGE)
    await store.pull(f"{there.address}/app:1")
    store.tag(f"{there.address}/app:1", f"{there.address}/copy:x")
    told = await store.push(f"{there.address}/copy:x")
    assert lines(told)[0] == f"The push refers to repository [{there.address}/copy]"
    assert sum("Mounted from app" in line for line in lines(told)) == 2
    size = len(json.dumps(IMAGE.manifest))
    assert lines(told)[-1] == f"x: digest: {digest} size: {size}"
    assert told[-1].aux == {"Tag": "x", "Digest": digest, "Size": size}
    assert there.has_blob("copy", BIG)


async def _made_here(store: Store, name: str) -> str:
    """An image whose layer is kept uncompressed, as `docker commit` keeps it."""
    tar = layer_tar({"noise": NOISE})
    blob = store.images.content.put(tar)
    await asyncio.to_thread(store.images.layers.unpack, store.images.content.path(blob), "", blob, "")
    from runtime.images.image import OCI_LAYER, Descriptor

    layer = Descriptor(media_type=OCI_LAYER, digest=blob, size=len(tar))
    image = store.images.add(image_config([tar]), None, [layer], None)
    store.images.tag(image.id, parse_reference(name))
    return blob.removeprefix("sha256:")[:12]


async def test_a_layer_is_compressed_once(there: Registry, between: Proxy, store: Store) -> None:
    layer = await _made_here(store, f"{between.address}/made:1")
    told = await store.push(f"{between.address}/made:1")
    assert [line for line in lines(told) if line.startswith(layer)] == [f"{layer}: Preparing", f"{layer}: Pushed"]
    assert any(progress.status == "Pushing" and progress.current for progress in told)
    store.tag(f"{between.address}/made:1", f"{between.address}/made:2")
    again = lines(await store.push(f"{between.address}/made"))
    assert again.count(f"{layer}: Layer already exists") == 2
    assert between.count("PATCH") == 2
    async with image_store(store.layout.root / "other") as other:
        await other.pull(f"{there.address}/made:2")
        assert other.read(f"{there.address}/made:2", "noise") == NOISE


async def test_many_questions_at_once_find_out_together_that_there_is_no_tls(there: Registry, store: Store) -> None:
    repository = store.registries.repository(parse_reference(f"{there.address}/app"), None)
    assert all("1" in tags for tags in await asyncio.gather(*(repository.tags() for _ in range(9))))


async def test_a_broken_upload_is_begun_again(between: Proxy, store: Store) -> None:
    await _made_here(store, f"{between.address}/broken:1")
    between.fail("PATCH", status(502))
    await store.push(f"{between.address}/broken:1")
    assert between.count("PATCH") == 3


async def test_what_is_not_here_cannot_be_pushed(there: Registry, store: Store) -> None:
    with pytest.raises(NotFound, match=f"An image does not exist locally with the tag: {there.address}/none"):
        await store.push(f"{there.address}/none:1")
    await store.pull(f"{there.address}/app:1")
    with pytest.raises(NotFound, match=f"tag does not exist: {there.address}/app:2"):
        await store.push(f"{there.address}/app:2")


async def test_the_hub_is_searched_as_it_wants_to_be(between: Proxy, tmp_path: Path) -> None:
    busybox = SearchResult("busybox", "small", is_official=True, star_count=9)
    answer = {"results": [asdict(busybox), {"name": "other/busybox"}]}
    between.fail("GET /v1/search", status(200, json.dumps(answer).encode()), times=9)
    async with image_store(tmp_path, RegistrySettings(index=f"http://{between.address}")) as store:
        filters = {"is-official": ["true"], "stars": ["3"]}
        assert await search(store.registries, "docker.io/busybox", 7, filters) == [busybox]
        assert [each.name for each in await search(store.registries, "busybox")] == ["busybox", "other/busybox"]
        with pytest.raises(InvalidParameter, match="invalid filter"):
            await search(store.registries, "busybox", 7, {"stars": ["many"]})
    assert between.seen[0][0] == "GET /v1/search?q=busybox&n=7"


async def test_a_catalogue_is_searched(there: Registry, store: Store) -> None:
    there.put_image("team/web", "1", RemoteImage.of({"a": b""}))
    assert [found.name for found in await search(store.registries, f"{there.address}/web")] == [f"{there.address}/team/web"]
