"""flanneld.linux.netlink against a scripted kernel, for what a real one does rarely."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator

import pytest

from flanneld.kernel import KernelError
from flanneld.linux.message import NLM_F_ACK, NLM_F_DUMP_INTR, Message, split_messages, text
from flanneld.linux.netlink import BATCH, DUMP_TRIES, NLM_F_ACK_TLVS, NLMSG_DONE, NLMSG_ERROR, Netlink

REQUEST = Message(99, bytes(12))


class ScriptedSocket:
    """Answers each send by what `kernel` makes of it."""

    def __init__(self, kernel: Callable[[Message], list[Message]]) -> None:
        self.kernel = kernel
        self.replies: list[bytes | OSError] = []
        self.sends: list[list[Message]] = []

    def send(self, data: bytes) -> None:
        self.sends.append(list(split_messages(data)))
        self.replies += [reply.encode(m.sequence, reply.flags) for m in self.sends[-1] for reply in self.kernel(m)]

    def recv(self, _: int) -> bytes:
        reply = self.replies.pop(0)
        if isinstance(reply, OSError):
            raise reply
        return reply

    def close(self) -> None:
        pass


def outcome(code: int, words: str = "") -> Message:
    body = struct.pack("=i16x", -code) + (text(1, words) if words else b"")
    return Message(NLMSG_ERROR, body, NLM_F_ACK_TLVS if words else 0)


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with Netlink() as opened:
        opened._socket.close()
        yield opened


def script(netlink: Netlink, kernel: Callable[[Message], list[Message]]) -> ScriptedSocket:
    scripted = ScriptedSocket(kernel)
    netlink._socket = scripted  # type: ignore[assignment]  # the part of a socket that Netlink uses
    return scripted


def refuse_odd(message: Message) -> list[Message]:
    if message.body[0] % 2:
        return [outcome(errno.EINVAL, "odd")]
    return [outcome(0)] if message.flags & NLM_F_ACK else []


def test_each_message_gets_its_own_outcome_over_many_batches(netlink: Netlink) -> None:
    scripted = script(netlink, refuse_odd)
    outcomes = netlink.transact([Message(99, bytes([place % 256]) * 12) for place in range(3 * BATCH + 1)])
    assert [int(each) for each in outcomes] == [errno.EINVAL if place % 2 else 0 for place in range(3 * BATCH + 1)]
    assert outcomes[1].why == "odd"
    assert [len(send) for send in scripted.sends] == [BATCH, BATCH, BATCH, 1]


def test_nothing_to_send_sends_nothing(netlink: Netlink) -> None:
    scripted = script(netlink, refuse_odd)
    assert netlink.transact([]) == []
    assert not scripted.sends


def test_a_refusal_without_words_gets_those_of_its_errno(netlink: Netlink) -> None:
    script(netlink, lambda _: [outcome(errno.ENETUNREACH)])
    with pytest.raises(KernelError, match=r"^kernel refused the thing: network is unreachable$"):
        netlink.change("the thing", REQUEST)


def test_an_interrupted_dump_is_read_again(netlink: Netlink) -> None:
    tries = iter((NLM_F_DUMP_INTR, 0))
    script(netlink, lambda m: [Message(24, bytes(12), next(tries), m.sequence), Message(NLMSG_DONE, bytes(4))])
    assert [reply.kind for reply in netlink.dump(REQUEST)] == [24]


def test_a_dump_that_is_always_interrupted_ends_as_an_error(netlink: Netlink) -> None:
    scripted = script(netlink, lambda _: [Message(NLMSG_DONE, bytes(4), NLM_F_DUMP_INTR)])
    with pytest.raises(KernelError, match="changed during each of 10 reads"):
        netlink.dump(REQUEST)
    assert len(scripted.sends) == DUMP_TRIES


def test_a_dump_may_end_with_an_error(netlink: Netlink) -> None:
    script(netlink, lambda _: [Message(NLMSG_DONE, struct.pack("=i", -errno.ENOENT))])
    with pytest.raises(KernelError) as refused:
        netlink.dump(REQUEST)
    assert refused.value.errno == errno.ENOENT


def test_what_an_earlier_call_left_unread_is_passed_over(netlink: Netlink) -> None:
    scripted = script(netlink, lambda _: [outcome(0)])
    scripted.replies.append(outcome(errno.EPERM).encode(4_000_000_000))
    assert netlink.transact([REQUEST]) == [0]


def test_lost_answers_are_an_error_and_not_a_wait(netlink: Netlink) -> None:
    scripted = script(netlink, lambda _: [])
    scripted.replies.append(OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)))
    with pytest.raises(KernelError, match="no buffer space available"):
        netlink.transact([REQUEST])
