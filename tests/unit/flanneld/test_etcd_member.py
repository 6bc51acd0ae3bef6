"""One member: connections that come and go, and how long an answer is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flanneld.etcd import rpc
from flanneld.etcd.call import ConnectionLost, RpcError, Status
from flanneld.etcd.endpoint import Endpoint
from flanneld.etcd.member import CallOptions, Member
from grpc_peer import LOOPBACK, Peer, Script, grpc_peer

QUESTION = rpc.RangeRequest(key=b"a")
SOON = CallOptions((), 0.1)
IN_A_WHILE = CallOptions((("token", "t"),), 10)


@asynccontextmanager
async def member_of(script: Script) -> AsyncIterator[tuple[Member, list[Peer]]]:
    async with grpc_peer(script) as (port, peers):
        member = Member(Endpoint(LOOPBACK, port, tls=False), None)
        try:
            yield member, peers
        finally:
            await member.close()


def answer(peer: Peer, stream: int, _: bytes) -> None:
    peer.answer(stream, b"")


def be_silent(peer: Peer, stream: int, _: bytes) -> None:
    pass


async def test_one_connection_for_all_calls_until_it_is_lost() -> None:
    async with member_of(answer) as (member, peers):
        await asyncio.gather(*(member.ask(rpc.RANGE, QUESTION, IN_A_WHILE) for _ in range(5)))
        assert len(peers) == 1
        peers[0].writer.close()
        await asyncio.sleep(0.05)
        await member.ask(rpc.RANGE, QUESTION, IN_A_WHILE)
        assert len(peers) == 2


async def test_nobody_there_is_unavailable_in_the_systems_words() -> None:
    with pytest.raises(RpcError) as failed:
        await Member(Endpoint(LOOPBACK, 9, tls=False), None).ask(rpc.RANGE, QUESTION, IN_A_WHILE)
    assert (failed.value.status, str(failed.value)) == (Status.UNAVAILABLE, "connection refused")
    assert not isinstance(failed.value, ConnectionLost)


async def test_a_connection_on_which_nothing_comes_is_given_up_with_every_call_on_it() -> None:
    async with member_of(be_silent) as (member, peers):
        async with member.open(rpc.WATCH, CallOptions((), None)) as watch:
            await watch.send(b"")
            await asyncio.sleep(0.05)  # its settings have come: after that, it says no more
            with pytest.raises(RpcError) as failed:
                await member.ask(rpc.RANGE, QUESTION, SOON)
            assert (failed.value.status, str(failed.value)) == (Status.DEADLINE_EXCEEDED, "no answer in 0.1 s")
            with pytest.raises(RpcError, match="has fallen silent"):
                await watch.receive()
        with pytest.raises(RpcError, match="no answer"):
            await member.ask(rpc.RANGE, QUESTION, SOON)
        assert len(peers) == 2


async def test_a_slow_answer_does_not_cost_the_others_their_connection() -> None:
    def answer_all_but_the_first(peer: Peer, stream: int, _: bytes) -> None:
        if stream > 1:
            peer.answer(stream, b"")

    async with member_of(answer_all_but_the_first) as (member, peers):
        slow = asyncio.create_task(member.ask(rpc.RANGE, QUESTION, SOON))
        await asyncio.sleep(0.05)
        await member.ask(rpc.RANGE, QUESTION, IN_A_WHILE)
        with pytest.raises(RpcError, match="no answer"):
            await slow
        await member.ask(rpc.RANGE, QUESTION, IN_A_WHILE)
        assert len(peers) == 1
        assert peers[0].resets() == [1]


async def test_the_callers_own_time_limit_is_his_own() -> None:
    async with member_of(be_silent) as (member, _):
        with pytest.raises(TimeoutError):
            async with member.open(rpc.WATCH, IN_A_WHILE) as watch, asyncio.timeout(0.05):
                await watch.receive()


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x7f"])
async def test_an_answer_that_is_no_such_message_is_an_error(message: bytes) -> None:
    async with member_of(lambda peer, stream, _: peer.answer(stream, message)) as (member, _):
        with pytest.raises(RpcError, match="with what is not a RangeResponse"):
            await member.ask(rpc.RANGE, QUESTION, IN_A_WHILE)


async def test_an_answer_without_a_message_is_an_error() -> None:
    def no_message(peer: Peer, stream: int, _: bytes) -> None:
        peer.h2.send_headers(stream, ((":status", "200"), ("grpc-status", "0")), end_stream=True)

    async with member_of(no_message) as (member, _):
        with pytest.raises(RpcError, match="less or more than one message"):
            await member.ask(rpc.RANGE, QUESTION, IN_A_WHILE)
