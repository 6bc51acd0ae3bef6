import pytest

from runtime.config import ContainerConfig, HostConfig
from runtime.containers.record import Life, Record, State
from runtime.containers.transitions import MOVES, REFUSALS, Verb, check, check_move
from runtime.errors import Conflict, EngineError, NotModified

ID = "ab" * 32


def record(state: State) -> Record:
    life = Life(state=state)
    return Record(id=ID, name="web", created="", image_id="", config=ContainerConfig(), host=HostConfig(), life=life)


@pytest.mark.parametrize(
    ("verb", "state", "error", "text"),
    [
        (Verb.START, State.RUNNING, NotModified, "Container is already started"),
        (Verb.START, State.PAUSED, Conflict, "cannot start a paused container, try unpause instead"),
        (Verb.STOP, State.EXITED, NotModified, "Container is already stopped"),
        (Verb.KILL, State.EXITED, Conflict, f"container {ID} is not running"),
        (Verb.PAUSE, State.PAUSED, Conflict, f"Container {ID} is already paused"),
        (Verb.UNPAUSE, State.RUNNING, Conflict, f"Container {ID} is not paused"),
        (Verb.EXEC, State.PAUSED, Conflict, f"Container {ID} is paused, unpause the container before exec"),
        (Verb.REMOVE, State.REMOVING, Conflict, f"removal of container {ID} is already in progress"),
        (
            Verb.REMOVE,
            State.RUNNING,
            Conflict,
            'cannot remove container "/web": container is running: stop the container before removing or force remove',
        ),
    ],
)
def test_what_is_refused_is_refused_in_dockers_words(verb: Verb, state: State, error: type[EngineError], text: str) -> None:
    with pytest.raises(error) as refused:
        check(verb, record(state))
    assert str(refused.value) == text


def test_every_verb_has_a_row_and_is_legal_somewhere() -> None:
    assert set(REFUSALS) == set(Verb)
    assert all(len(row) < len(State) for row in REFUSALS.values())


def test_created_exited_and_dead_containers_can_be_removed_and_running_ones_by_force() -> None:
    for state in (State.CREATED, State.EXITED, State.DEAD):
        check(Verb.REMOVE, record(state))
    check(Verb.FORCE_REMOVE, record(State.RUNNING))


def test_no_state_is_a_dead_end_but_for_removal() -> None:
    assert set(MOVES) == set(State)
    assert all(MOVES[state] for state in State)


def test_a_move_that_is_not_listed_is_our_own_mistake() -> None:
    check_move(State.RUNNING, State.RUNNING)
    check_move(State.RUNNING, State.EXITED)
    with pytest.raises(AssertionError, match="from created to paused"):
        check_move(State.CREATED, State.PAUSED)
