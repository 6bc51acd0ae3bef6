"""BFD's state machine by RFC 5880 §6.8: one end by itself, and two against each other over a wire that only pretends."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfd_wire import FAST, Wire
from bgp.bfd.packet import BfdError, ControlPacket, Diagnostic, Drop, State
from bgp.bfd.session import BfdSession, Timing

SAID = ControlPacket(State.DOWN, 2, 0, 1_000_000, 100_000, 3)
"""What a neighbour says that has heard nothing yet."""


def session(timing: Timing = FAST, random: float = 0.0) -> BfdSession:
    return BfdSession(1, timing, lambda: random)


def drained(end: BfdSession, now: float) -> list[ControlPacket]:
    """All that is due."""
    return list(iter(lambda: end.send(now), None))


def up(timing: Timing = FAST, *, multiplier: int = 3, tx_us: int = 100_000, rx_us: int = 100_000) -> BfdSession:
    """A session that came up at the time 10, whose neighbour has answered its first Poll."""
    end = session(timing)
    end.receive(replace(SAID, state=State.INIT, your_discriminator=1), 10.0)
    end.receive(told(end, multiplier=multiplier, desired_min_tx_us=tx_us, required_min_rx_us=rx_us, final=True), 10.0)
    drained(end, 10.0)
    return end


def told(end: BfdSession, **fields: object) -> ControlPacket:
    """A packet of a neighbour that is Up."""
    usual = ControlPacket(State.UP, 2, end.discriminator, 100_000, 100_000, 3)
    return replace(usual, **fields)  # type: ignore[arg-type]  # fields by name


def poll_of(end: BfdSession, at: float) -> ControlPacket:
    """The one packet that is due then."""
    (packet,) = drained(end, at)
    return packet


@pytest.mark.parametrize(
    ("ours", "theirs", "after"),
    [
        (State.DOWN, State.ADMIN_DOWN, State.DOWN),
        (State.DOWN, State.DOWN, State.INIT),
        (State.DOWN, State.INIT, State.UP),
        (State.DOWN, State.UP, State.DOWN),
        (State.INIT, State.ADMIN_DOWN, State.DOWN),
        (State.INIT, State.DOWN, State.INIT),
        (State.INIT, State.INIT, State.UP),
        (State.INIT, State.UP, State.UP),
        (State.UP, State.ADMIN_DOWN, State.DOWN),
        (State.UP, State.DOWN, State.DOWN),
        (State.UP, State.INIT, State.UP),
        (State.UP, State.UP, State.UP),
        *((State.ADMIN_DOWN, theirs, State.ADMIN_DOWN) for theirs in State),
    ],
)
def test_the_states_change_as_the_rfc_says(ours: State, theirs: State, after: State) -> None:
    end = session()
    end.state = ours
    end.receive(told(end, state=theirs), 1.0)
    assert end.state is after
    if ours > State.DOWN and after is State.DOWN:
        assert end.diagnostic is Diagnostic.NEIGHBOUR_SIGNALLED_DOWN


def test_the_first_packet_goes_out_at_once_and_says_that_nothing_is_known() -> None:
    end = session()
    assert end.next_send(5.0) == 5.0
    assert drained(end, 5.0) == [ControlPacket(State.DOWN, 1, 0, 1_000_000, 100_000, 3)]
    assert end.detection_deadline() is None


@given(st.floats(0, 1, exclude_max=True))
def test_while_not_up_a_packet_goes_out_each_second_or_a_quarter_sooner(random: float) -> None:
    end = session(random=random)
    drained(end, 5.0)
    due = end.next_send(5.0)
    assert due is not None
    assert 5.75 <= due <= 6.0
    assert end.send(due - 0.001) is None
    assert end.send(due) is not None


def test_an_interval_above_a_second_is_kept_while_not_up() -> None:
    end = session(Timing(2_000_000, 3))
    drained(end, 5.0)
    assert end.next_send(5.0) == 7.0


@given(st.floats(0, 1, exclude_max=True))
def test_with_a_multiplier_of_one_the_next_packet_is_never_late(random: float) -> None:
    end = session(Timing(1_000_000, 1), random)
    drained(end, 5.0)
    due = end.next_send(5.0)
    assert due is not None
    assert 5.75 <= due <= 5.9


def test_two_ends_are_up_within_three_seconds() -> None:
    wire = Wire()
    assert wire.run_until(wire.up) < 3
    assert [state for end, state in wire.states if end is wire.a] == [State.DOWN, State.INIT, State.UP]


@given(st.integers(0, 1 << 32))
def test_two_ends_come_up_over_a_wire_that_loses_every_third_packet(seed: int) -> None:
    chance = Random(seed)
    wire = Wire(random=chance.random, lost=lambda packet: chance.random() < 1 / 3)
    wire.run_until(wire.up)


@given(st.integers(0, 1 << 32))
def test_a_session_that_is_up_stays_up_while_less_is_lost_than_it_takes(seed: int) -> None:
    chance, wire = Random(seed), Wire((Timing(100_000, 4),) * 2, Random(seed).random)
    wire.run_until(wire.up)
    wire.run(2)
    wire.lost = lambda packet: int(wire.now * 10) % 3 != 0 and chance.random() < 0.5  # in 200 ms at most, of each 300
    wire.run(20)
    assert wire.up()
    assert len(wire.states) == 6


@given(st.integers(0, 1 << 32))
def test_when_up_packets_go_out_at_the_slower_ends_interval_or_a_quarter_sooner(seed: int) -> None:
    wire = Wire((Timing(50_000, 3), Timing(200_000, 3)), Random(seed).random)
    wire.run_until(wire.up)
    wire.run(2)
    since = wire.now
    wire.run(5)
    for end in (wire.a, wire.b):
        gaps = [later.at - former.at for former, later in pairwise(wire.packets(end, since))]
        assert all(0.15 - 1e-9 <= gap <= 0.2 + 1e-9 for gap in gaps)
        assert len(gaps) > 20


@pytest.mark.parametrize(
    ("our_rx_us", "their_tx_us", "their_multiplier", "detection_s"),
    [(100_000, 100_000, 3, 0.3), (50_000, 200_000, 5, 1.0), (500_000, 10_000, 2, 1.0), (100_000, 100_000, 1, 0.1)],
)
def test_the_detection_time_is_the_neighbours_multiplier_times_the_slower_interval(
    our_rx_us: int, their_tx_us: int, their_multiplier: int, detection_s: float
) -> None:
    end = up(Timing(our_rx_us, 7), multiplier=their_multiplier, tx_us=their_tx_us)
    end.receive(told(end, multiplier=their_multiplier, desired_min_tx_us=their_tx_us), 20.0)
    assert end.detection_deadline() == pytest.approx(20.0 + detection_s)
    end.expire(20.0 + detection_s - 0.000_001)
    assert end.state is State.UP
    end.expire(20.0 + detection_s + 0.000_001)
    assert (end.state, end.diagnostic) == (State.DOWN, Diagnostic.DETECTION_TIME_EXPIRED)


def test_who_declares_the_neighbour_dead_says_so_at_once_and_forgets_its_discriminator() -> None:
    end = up()
    end.expire(10.3)
    packet = poll_of(end, 10.3)
    assert (packet.state, packet.diagnostic) == (State.DOWN, Diagnostic.DETECTION_TIME_EXPIRED)
    assert (packet.your_discriminator, packet.desired_min_tx_us, packet.poll) == (0, 1_000_000, False)
    assert end.next_send(10.3) == pytest.approx(11.3)
    assert end.detection_deadline() is None


def test_silence_of_one_side_takes_both_down_and_its_end_brings_them_back() -> None:
    wire = Wire()
    wire.run_until(wire.up)
    wire.run(2)
    wire.lost = lambda packet: packet.my_discriminator == wire.a.discriminator
    wire.run_until(lambda: wire.b.state is State.DOWN, 0.31)
    wire.run(0.01)
    assert (wire.a.state, wire.a.diagnostic) == (State.DOWN, Diagnostic.NEIGHBOUR_SIGNALLED_DOWN)
    assert wire.b.diagnostic is Diagnostic.DETECTION_TIME_EXPIRED
    wire.lost = lambda packet: False
    assert wire.run_until(wire.up) < 3


def test_a_poll_is_answered_at_once_whatever_the_interval() -> None:
    end = up()
    end.receive(told(end, poll=True), 10.01)
    assert end.next_send(10.01) == 10.01
    answer = poll_of(end, 10.01)
    assert (answer.final, answer.poll, answer.state) == (True, False, State.UP)
    assert end.next_send(10.01) == pytest.approx(10.1)  # as if nothing had been


def test_coming_up_polls_for_the_faster_interval_until_it_is_confirmed() -> None:
    end = session()
    end.receive(replace(SAID, state=State.INIT, your_discriminator=1), 10.0)
    polls = [poll_of(end, 10.0), poll_of(end, 10.1), poll_of(end, 10.2)]
    assert all(packet.poll and packet.desired_min_tx_us == 100_000 for packet in polls)
    end.receive(told(end, final=True), 10.25)
    assert not poll_of(end, 10.3).poll


def test_a_longer_interval_is_used_when_the_neighbour_has_confirmed_it() -> None:
    end = up()
    end.retime(Timing(400_000, 3))
    poll = poll_of(end, 10.1)
    assert (poll.poll, poll.desired_min_tx_us, poll.required_min_rx_us) == (True, 400_000, 400_000)
    assert end.next_send(10.1) == pytest.approx(10.2)
    end.receive(told(end, final=True), 10.15)
    assert end.next_send(10.15) == pytest.approx(10.5)


def test_a_shorter_interval_is_sent_at_once_and_expected_when_confirmed() -> None:
    end = up(Timing(400_000, 3), rx_us=50_000)
    end.retime(Timing(100_000, 3))
    assert end.next_send(10.0) == pytest.approx(10.1)
    assert end.detection_deadline() == pytest.approx(10.0 + 3 * 0.4)
    end.receive(told(end, final=True), 10.05)
    assert end.detection_deadline() == pytest.approx(10.05 + 3 * 0.1)


def test_a_change_of_mind_during_a_poll_sequence_is_another_one_after_it() -> None:
    end = up()
    end.retime(Timing(400_000, 3))
    end.retime(Timing(700_000, 3))
    assert poll_of(end, 10.1).desired_min_tx_us == 400_000
    end.receive(told(end, final=True), 10.15)
    second = poll_of(end, 10.5)
    assert (second.poll, second.desired_min_tx_us) == (True, 700_000)
    end.receive(told(end, final=True), 10.6)
    assert end.next_send(10.6) == pytest.approx(10.5 + 0.7)


def test_going_down_ends_a_poll_sequence_and_what_it_was_about() -> None:
    end = up(Timing(1_000_000, 3))
    end.retime(Timing(2_000_000, 3))
    end.expire(100.0)
    assert not poll_of(end, 100.0).poll
    assert end.next_send(100.0) == 102.0


def test_intervals_and_multiplier_change_without_a_loss_of_the_session() -> None:
    wire = Wire()
    wire.run_until(wire.up)
    for timing in (Timing(1_500_000, 2), Timing(30_000, 5), Timing(300_000, 3)):
        wire.a.retime(timing)
        wire.run(8)
        assert wire.packets(wire.a)[-1].packet.multiplier == timing.multiplier
    assert len(wire.states) == 6


def test_a_session_that_was_disabled_says_so_and_hears_nothing() -> None:
    wire = Wire()
    wire.run_until(wire.up)
    wire.a.disable()
    wire.run(0.01)
    assert (wire.b.state, wire.b.diagnostic) == (State.DOWN, Diagnostic.NEIGHBOUR_SIGNALLED_DOWN)
    assert wire.b.neighbour_state is State.ADMIN_DOWN
    said = wire.packets(wire.a)[-1].packet
    assert (said.state, said.diagnostic, said.poll) == (State.ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN, False)
    assert said.your_discriminator == wire.b.discriminator
    wire.run(5)
    assert (wire.a.state, wire.b.state) == (State.ADMIN_DOWN, State.DOWN)


def test_a_neighbour_that_has_restarted_with_another_discriminator_is_up_again_soon() -> None:
    wire = Wire()
    wire.run_until(wire.up)
    wire.run(1)
    wire.restart_b(2002)
    wire.run_until(lambda: wire.a.state is State.DOWN)
    assert wire.run_until(wire.up) < 3
    assert wire.packets(wire.a)[-1].packet.your_discriminator == 2002
    assert {error.drop for error in wire.refused} <= {Drop.DISCRIMINATOR}


def test_a_packet_of_another_session_is_refused_and_changes_nothing() -> None:
    end = up()
    with pytest.raises(BfdError, match="your discriminator 77, expected 1 or 0") as refused:
        end.receive(told(end, your_discriminator=77, state=State.DOWN), 10.2)
    assert refused.value.drop is Drop.DISCRIMINATOR
    assert end.state is State.UP
    assert end.detection_deadline() == pytest.approx(10.3)


def test_a_neighbour_that_wants_no_packets_gets_none_but_answers() -> None:
    end = up()
    end.receive(told(end, required_min_rx_us=0, poll=True), 10.05)
    assert poll_of(end, 10.05).final
    assert end.next_send(10.05) is None
    end.expire(11.0)  # and once it is forgotten, it may be another one
    assert end.next_send(11.0) is not None


def test_a_neighbour_in_demand_mode_gets_polls_and_answers_alone() -> None:
    end = up()
    end.receive(told(end, demand=True), 10.05)
    assert end.next_send(10.05) is None
    end.retime(Timing(400_000, 3))
    assert poll_of(end, 10.2).poll


def test_a_neighbour_that_is_silent_while_down_is_forgotten_too() -> None:
    end = session()
    end.receive(replace(SAID, state=State.ADMIN_DOWN, required_min_rx_us=0), 1.0)
    end.expire(4.0)
    assert poll_of(end, 5.0).your_discriminator == 0


packets = st.builds(
    ControlPacket,
    state=st.sampled_from(State),
    my_discriminator=st.sampled_from([2, 3]),
    your_discriminator=st.sampled_from([0, 1, 1, 1, 9]),
    desired_min_tx_us=st.sampled_from([0, 1, 100_000, 0xFFFFFFFF]),
    required_min_rx_us=st.sampled_from([0, 1, 100_000, 0xFFFFFFFF]),
    multiplier=st.sampled_from([1, 3, 255]),
    poll=st.booleans(),
    final=st.booleans(),
    demand=st.booleans(),
)
steps = st.lists(
    st.tuples(st.floats(0, 3), packets | st.builds(Timing, st.integers(1, 3_000_000), st.integers(1, 255))), max_size=30
)


@given(steps)
def test_whatever_comes_what_goes_out_is_sound_and_ends(happenings: list[tuple[float, ControlPacket | Timing]]) -> None:
    end, now = session(), 0.0
    for pause, what in happenings:
        now += pause
        end.expire(now)
        with suppress(BfdError):
            end.retime(what) if isinstance(what, Timing) else end.receive(what, now)
        going_out = drained(end, now)
        assert len(going_out) <= 2
        assert not any(packet.poll and packet.final for packet in going_out)
        assert all(packet.desired_min_tx_us >= 1_000_000 for packet in going_out if packet.state is not State.UP)
        assert all(packet.encode() for packet in going_out)
