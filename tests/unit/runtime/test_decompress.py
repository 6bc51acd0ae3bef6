import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from functools import partial

import pytest
import zstandard

from runtime.images import decompress
from runtime.images.decompress import compression, decompressed
from runtime.images.limits import BadArchive, Limits, limited

DATA = b"".join(b"%d" % number for number in range(30_000))
FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "bzip2": bz2.compress,
    "xz": partial(lzma.compress, preset=0),
}


@pytest.fixture(params=["isal", "zlib"])
def either_gzip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(decompress, "_gzip", decompress._Inflate)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("either_gzip")
def test_what_the_first_bytes_say_is_made_plain(name: str) -> None:
    packed = FORMATS[name](DATA)
    assert compression(packed[:6]) == name
    assert b"".join(decompressed(io.BytesIO(packed).read)) == DATA
    assert b"".join(decompressed(io.BytesIO(packed + packed).read)) == DATA + DATA


def test_what_is_not_compressed_stays_as_it_is() -> None:
    assert compression(DATA[:6]) == ""
    assert b"".join(decompressed(io.BytesIO(DATA).read)) == DATA
    assert list(decompressed(io.BytesIO(b"").read)) == []


def test_a_source_that_gives_a_byte_at_a_time_is_understood() -> None:
    packed = io.BytesIO(gzip.compress(b"hello"))
    assert b"".join(decompressed(lambda _: packed.read(1))) == b"hello"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("either_gzip")
def test_damage_is_noticed(name: str) -> None:
    packed = bytearray(FORMATS[name](DATA))
    packed[len(packed) // 2] ^= 0x55
    packed[len(packed) // 2 + 1] ^= 0x55
    with pytest.raises(BadArchive, match="damaged"):
        list(decompressed(io.BytesIO(packed).read))


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
@pytest.mark.usefixtures("either_gzip")
def test_an_early_end_is_noticed(name: str) -> None:
    with pytest.raises(BadArchive, match="ends early"):
        list(decompressed(io.BytesIO(FORMATS[name](DATA)[:-9]).read))


@pytest.mark.usefixtures("either_gzip")
def test_zeros_behind_the_end_are_padding_and_all_else_is_not() -> None:
    assert b"".join(decompressed(io.BytesIO(gzip.compress(b"a") + b"\0" * 999).read)) == b"a"
    with pytest.raises(BadArchive):
        list(decompressed(io.BytesIO(gzip.compress(b"a") + b"evil").read))


def test_a_chunk_is_never_large_however_little_it_was_made_of() -> None:
    for name in ("gzip", "zstd", "xz"):
        bomb = FORMATS[name](bytes(6 << 20))
        assert max(map(len, decompressed(io.BytesIO(bomb).read))) <= decompress.CHUNK_BYTES


def test_growth_has_its_limits() -> None:
    chunks = [bytes(1000)] * 10
    assert list(limited(iter(chunks), lambda: 100, Limits(ratio=2, ratio_from=10_000))) == chunks
    with pytest.raises(BadArchive, match="more than 2 times"):
        list(limited(iter(chunks), lambda: 100, Limits(ratio=2, ratio_from=5000)))
    with pytest.raises(BadArchive, match="more than 9999 bytes"):
        list(limited(iter(chunks), lambda: 100, Limits(bytes=9999)))
