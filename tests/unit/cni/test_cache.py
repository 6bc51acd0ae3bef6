"""The cache of results, as libcni 1.1.2 writes and reads it."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from cni.cache import Attachment, Cached, CacheError, ResultCache
from cni.ledger import Key
from cni.spec import CniError

PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
ATTACHMENT = Attachment("c1", "/run/netns/c1", "eth0", {"IgnoreUnknown": "1", "K8S_POD_NAME": "web"}, {"portMappings": PORTS})
RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}], "dns": {}}
CACHED = Cached("net", ATTACHMENT, b'{"name": "net"}', RESULT)
KEY = Key("net", "c1", "eth0")

BY_LIBCNI: dict[str, Any] = {
    "kind": "cniCacheV1",
    "containerId": "c1",
    "config": base64.b64encode(b'{"name": "net"}').decode(),
    "ifName": "eth0",
    "networkName": "net",
    "netns": "/run/netns/c1",
    "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "web"]],
    "capabilityArgs": {"portMappings": PORTS},
    "result": RESULT,
}


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "cni")


def file_of(cache: ResultCache, name: str = "net-c1-eth0") -> Path:
    return cache.directory / "results" / name


def by_libcni(cache: ResultCache, told: object, name: str = "net-c1-eth0") -> None:
    file_of(cache).parent.mkdir(parents=True, exist_ok=True)
    file_of(cache, name).write_text(json.dumps(told))


def test_a_file_is_where_and_what_libcni_makes_of_it(cache: ResultCache) -> None:
    cache.write(CACHED)
    assert json.loads(file_of(cache).read_text()) == BY_LIBCNI
    assert file_of(cache).stat().st_mode & 0o777 == 0o600
    assert file_of(cache).parent.stat().st_mode & 0o777 == 0o700


def test_libcnis_file_is_read(cache: ResultCache) -> None:
    by_libcni(cache, BY_LIBCNI)
    assert cache.read(KEY) == CACHED


def test_what_libcni_leaves_out_is_empty(cache: ResultCache) -> None:
    kept = {"kind", "containerId", "config", "ifName", "networkName"}
    by_libcni(cache, {name: value for name, value in BY_LIBCNI.items() if name in kept})
    assert cache.read(KEY) == Cached("net", Attachment("c1", ""), b'{"name": "net"}', None)
    cache.write(Cached("net", Attachment("c1", ""), b"", None))
    assert set(json.loads(file_of(cache).read_text())) == kept


def test_a_bare_result_of_an_old_libcni_is_read(cache: ResultCache) -> None:
    by_libcni(cache, RESULT)
    assert cache.read(KEY) == Cached("net", Attachment("c1", ""), b"", RESULT)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "cniCacheV9"}', '{"kind": "cniCacheV1", "containerId": "c1"}', "\0"])
def test_garbage_is_nothing(cache: ResultCache, text: str) -> None:
    file_of(cache).parent.mkdir(parents=True)
    file_of(cache).write_text(text)
    assert cache.read(KEY) is None
    assert cache.attachments("net") == []


def test_an_attachment_whose_files_name_is_the_same_is_another(cache: ResultCache) -> None:
    cache.write(Cached("net", Attachment("a-b", "", "c"), b"", RESULT))
    assert cache.read(Key("net-a", "b", "c")) is None
    assert cache.read(Key("net", "a-b", "c")) is not None


def test_writing_again_replaces_and_leaves_nothing_else(cache: ResultCache) -> None:
    cache.write(CACHED)
    cache.write(Cached("net", ATTACHMENT, b"", RESULT))
    assert cache.read(KEY) == Cached("net", ATTACHMENT, b"", RESULT)
    assert [path.name for path in cache.directory.rglob("*") if path.is_file()] == ["net-c1-eth0"]


def test_a_write_that_fails_leaves_what_was_there(cache: ResultCache) -> None:
    cache.write(CACHED)
    with pytest.raises(TypeError):
        cache.write(Cached("net", ATTACHMENT, b"", {"ips": object()}))
    assert cache.read(KEY) == CACHED
    assert [path.name for path in cache.directory.rglob("*") if path.is_file()] == ["net-c1-eth0"]


def test_a_reader_never_sees_half_a_file(cache: ResultCache) -> None:
    cache.write(CACHED)
    done = threading.Event()

    def write() -> None:
        for _ in range(200):
            cache.write(CACHED)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert cache.read(KEY) == CACHED
    writer.join()


def test_dropping_twice_is_dropping_once(cache: ResultCache) -> None:
    cache.write(CACHED)
    cache.drop(KEY)
    cache.drop(KEY)
    assert cache.read(KEY) is None


def test_attachments_are_those_of_the_network_whatever_their_files_are_called(cache: ResultCache) -> None:
    cache.write(CACHED)
    cache.write(Cached("net-c1", Attachment("x", ""), b"", RESULT))
    (file_of(cache).parent / "folder").mkdir()
    assert cache.attachments("net") == [CACHED]
    assert ResultCache(cache.directory / "nowhere").attachments("net") == []


def test_a_cache_that_cannot_be_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = ResultCache(tmp_path / "file")
    with pytest.raises(CacheError, match=r"/file/results/net-c1-eth0: Not a directory"):
        cache.write(CACHED)
    with pytest.raises(CacheError, match=r"/file/results/net-c1-eth0: Not a directory"):
        cache.read(KEY)


@pytest.mark.parametrize(
    "attachment",
    [
        Attachment("../c1", ""),
        Attachment("c1", "", "eth0/"),
        Attachment("c1", "a\0b"),
        Attachment("c1", "", args={"A": "1;B=2"}),
        Attachment("c1", "", args={"": "1"}),
    ],
)
def test_an_attachment_that_plugins_cannot_be_told_is_refused(attachment: Attachment) -> None:
    with pytest.raises(CniError) as caught:
        attachment.check()
    assert caught.value.code == 4
