"""Work that tells how it goes, and blobs read while they come."""

from __future__ import annotations

import asyncio
import errno
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from threading import Event

import pytest

from runtime.errors import NotFound
from runtime.images.content import Content, digest_of
from runtime.images.narration import Meter, Tell, narrate, together
from runtime.images.progress import Progress
from runtime.images.registry.following import Following, Growth
from runtime.layout import Layout

DATA = b"0123456789" * 1000


async def test_what_is_told_is_read_in_order_and_the_end_is_the_works() -> None:
    async def work(tell: Tell) -> None:
        tell(Progress(status="a"))
        await asyncio.sleep(0)
        tell(Progress(status="b"))
        async with together() as group:
            group.create_task(_fail())

    async with aclosing(narrate(work)) as told:
        assert [(await anext(told)).status, (await anext(told)).status] == ["a", "b"]
        with pytest.raises(NotFound, match="no such image"):
            await anext(told)


async def _fail() -> None:
    raise NotFound("no such image")


async def test_a_client_that_leaves_ends_the_work() -> None:
    ended = asyncio.Event()

    async def work(tell: Tell) -> None:
        try:
            tell(Progress(status="a"))
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with aclosing(narrate(work)) as told:
        async for _ in told:
            break
    assert ended.is_set()


def test_a_bar_moves_ten_times_a_second_at_most() -> None:
    times, told = iter((1.0, 1.05, 1.11, 1.12, 1.13)), list[tuple[str, int]]()
    meter = Meter(lambda progress: told.append((progress.status, progress.current)), "abc", 100, lambda: next(times))
    for done in (1, 2, 3, 4):
        meter.show("Downloading", done)
    meter.say("Download complete")
    meter.say("Download complete")
    assert told == [("Downloading", 1), ("Downloading", 3), ("Download complete", 0)]


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return Content(Layout(tmp_path / "root", tmp_path / "run"))


def test_a_blob_is_read_while_it_comes(content: Content) -> None:
    growth, half = Growth(), Event()
    with ThreadPoolExecutor(1) as pool, Following(content, digest_of(DATA), growth, lambda taken: half.set()) as following:
        reading = pool.submit(following.readall)
        with content.writer(digest_of(DATA), len(DATA), resumable=True) as writer:
            growth.path = writer.path
            writer.write(DATA[:9000])
            growth.grew()
            assert half.wait(10)
            writer.write(DATA[9000:])
            writer.commit()
        growth.grew()
        assert reading.result(10) == DATA


def test_a_reader_is_let_go(content: Content) -> None:
    with ThreadPoolExecutor(1) as pool, Following(content, digest_of(DATA), Growth(), lambda _: None) as following:
        reading = pool.submit(following.readall)
        following.abandon()
        with pytest.raises(OSError, match="ancel") as failed:
            reading.result(10)
    assert failed.value.errno == errno.ECANCELED


def test_a_reader_of_a_download_that_began_anew_hears_of_it(content: Content) -> None:
    growth = Growth()
    with Following(content, digest_of(DATA), growth, lambda _: None) as following:
        with content.writer(digest_of(DATA), len(DATA)) as writer:
            growth.path = writer.path
            writer.write(b"X" * 9000)
            assert following.read(10) == b"X" * 10
        content.put(DATA)
        with pytest.raises(OSError, match="tale"):
            following.readall()
