"""The socket that is served for as long as the daemon runs."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

import pytest

from cni_talk import Plugins, ask, eventually
from flanneld import FlanneldError, cni_server
from flanneld.cni_server import CniServer, CniServerError, conversing, listening


@pytest.fixture
def plugins() -> Plugins:
    return Plugins()


def test_only_root_may_speak_and_a_dead_daemons_socket_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "run" / "cni.sock"
    for _ in range(2):
        with listening(path):
            assert path.stat().st_mode & 0o777 == 0o600
            left = tmp_path / "left"
            left.unlink(missing_ok=True)
            os.link(path, left)
        assert not path.exists()
        os.rename(left, path)


def test_a_later_daemons_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cni.sock"
    with listening(path):
        path.unlink()
        path.touch()
    assert path.exists()


def test_a_socket_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CniServerError, match=r"cannot serve cni-socket .*/file/s: (not a directory|file exists)"),
        listening(tmp_path / "file" / "s"),
    ):
        pass


def test_many_clients_are_answered_at_once_and_a_bad_one_harms_nobody(tmp_path: Path, plugins: Plugins) -> None:
    together = threading.Barrier(8, timeout=10)
    plugins.meanwhile = lambda alive: (together.wait(), None)[1]
    with listening(tmp_path / "s") as listener, conversing(listener, plugins):
        with suppress(OSError, struct.error):
            ask(tmp_path / "s", b"x" * 100)
        threads = [threading.Thread(target=ask, args=(tmp_path / "s",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(plugins.heard) == 8


def test_an_accept_that_fails_ends_no_thread(tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cni_server, "ACCEPT_PAUSE_S", 0.01)
    monkeypatch.setattr(cni_server, "THREADS", 1)
    with listening(tmp_path / "s") as listener:
        failures = iter([OSError(24, "too many open files")])
        accept = listener.accept

        class Failing:
            def accept(self) -> object:
                if (failure := next(failures, None)) is not None:
                    raise failure
                return accept()

            def shutdown(self, how: int) -> None:
                listener.shutdown(how)

        with conversing(Failing(), plugins):  # type: ignore[arg-type]  # all that it uses of a socket
            assert ask(tmp_path / "s") == (3, b"out", b"err")


async def test_the_server_reconciles_first_and_after_each_touch(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_server, "load_plugins", lambda state, subnet_file: plugins)
    plugins.failing = True  # which is told, and no more
    task = asyncio.create_task(CniServer(tmp_path / "s", tmp_path / "j", tmp_path / "e").run())
    async with asyncio.timeout(10):
        await eventually((tmp_path / "s").exists)
        assert plugins.reconciled == 1
        plugins.touched.set()
        await eventually(lambda: plugins.reconciled == 2)
        assert await asyncio.to_thread(ask, tmp_path / "s") == (3, b"out", b"err")
        task.cancel()
        await asyncio.wait([task])
    assert (plugins.closed, (tmp_path / "s").exists()) == (True, False)


async def test_a_change_of_subnet_env_is_followed_at_once(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_server, "load_plugins", lambda state, subnet_file: plugins)
    server = CniServer(tmp_path / "s", tmp_path / "j", tmp_path / "e")
    task = asyncio.create_task(server.run())
    async with asyncio.timeout(10):
        await server.serving.wait()
        for count in (1, 2, 3):
            await eventually(lambda count=count: plugins.reconciled == count)  # type: ignore[misc]  # mypy knows no defaults of lambdas
            server.subnet_env_changed()
        task.cancel()
        await asyncio.wait([task])


async def test_it_serves_from_when_it_listens_until_it_ends_and_knows_pods_meanwhile(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_server, "load_plugins", lambda state, subnet_file: plugins)
    server, subnets = CniServer(tmp_path / "s", tmp_path / "j", tmp_path / "e"), (ip_network("10.1.0.0/24"),)
    assert (server.serving.is_set(), server.pods(subnets)) == (False, ())
    task = asyncio.create_task(server.run())
    async with asyncio.timeout(10):
        await server.serving.wait()
        assert await asyncio.to_thread(ask, tmp_path / "s") == (3, b"out", b"err")
        assert server.pods(subnets) == ("pod in 10.1.0.0/24",)
        task.cancel()
        await asyncio.wait([task])
    assert (server.serving.is_set(), server.pods(subnets)) == (False, ())


async def test_a_journal_that_another_process_has_is_waited_for(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter([FlanneldError("locked"), FlanneldError("locked")])

    def load(state: Path, subnet_file: Path) -> Plugins:
        if (error := next(tries, None)) is not None:
            raise error
        return plugins

    monkeypatch.setattr(cni_server, "load_plugins", load)
    task = asyncio.create_task(CniServer(tmp_path / "s", tmp_path / "j", tmp_path / "e").run())
    async with asyncio.timeout(10):
        await eventually((tmp_path / "s").exists)
    task.cancel()
    await asyncio.wait([task])
    assert plugins.closed


async def test_without_nftables_it_serves_and_looks_from_time_to_time(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_server, "load_plugins", lambda state, subnet_file: plugins)
    monkeypatch.setattr(cni_server, "RECONCILE_S", 0.05)
    plugins.deaf = plugins.failing = True
    task = asyncio.create_task(CniServer(tmp_path / "s", tmp_path / "j", tmp_path / "e").run())
    await eventually(lambda: plugins.reconciled >= 3)
    assert await asyncio.to_thread(ask, tmp_path / "s") == (3, b"out", b"err")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
