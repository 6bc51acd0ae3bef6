"""The states of a container and what may be asked of it in each; must not know how anything is done.

Two rules: a verb that `REFUSALS` has no entry for is legal in that state; a change of state that `MOVES` does not list never
happens, whatever went wrong on the way. Texts are Docker's: `{id}` is the whole id, `{name}` the name without its slash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runtime.containers.record import Record, State
from runtime.errors import Conflict, EngineError, NotModified


class Verb(StrEnum):
    """What clients ask of a container."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    RENAME = "rename"
    UPDATE = "update"
    REMOVE = "remove"
    FORCE_REMOVE = "force remove"
    EXEC = "exec"
    ATTACH = "attach"
    RESIZE = "resize"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, and what a client does about it."""

    error: type[EngineError]
    text: str


_STARTED = Refusal(NotModified, "Container is already started")
_STOPPED = Refusal(NotModified, "Container is already stopped")
_NOT_RUNNING = Refusal(Conflict, "container {id} is not running")
_NOT_PAUSED = Refusal(Conflict, "Container {id} is not paused")
_GOING = Refusal(Conflict, "removal of container {id} is already in progress")
_MARKED = Refusal(Conflict, "container is marked for removal and cannot be started")
_NO_UPDATE = Refusal(Conflict, 'Cannot update container {id}: container is marked for removal and cannot be "update"')
_NO_RENAME = Refusal(Conflict, "Container {id} is marked for removal and cannot be renamed")
_RESTARTING = Refusal(Conflict, "Container {id} is restarting, wait until the container is running")
_IS_RUNNING = Refusal(
    Conflict, 'cannot remove container "/{name}": container is running: stop the container before removing or force remove'
)
_IS_PAUSED = Refusal(Conflict, 'cannot remove container "/{name}": container is paused and must be unpaused first')

_C, _R, _P, _S = State.CREATED, State.RUNNING, State.PAUSED, State.RESTARTING
_V, _E, _D = State.REMOVING, State.EXITED, State.DEAD

REFUSALS: dict[Verb, dict[State, Refusal]] = {
    Verb.START: {
        _R: _STARTED,
        _P: Refusal(Conflict, "cannot start a paused container, try unpause instead"),
        _S: _STARTED,
        _V: _MARKED,
        _D: _MARKED,
    },
    Verb.STOP: {_C: _STOPPED, _E: _STOPPED, _V: _STOPPED, _D: _STOPPED},
    Verb.KILL: {_C: _NOT_RUNNING, _E: _NOT_RUNNING, _V: _NOT_RUNNING, _D: _NOT_RUNNING},
    Verb.PAUSE: {
        _C: _NOT_RUNNING,
        _P: Refusal(Conflict, "Container {id} is already paused"),
        _S: _RESTARTING,
        _V: _NOT_RUNNING,
        _E: _NOT_RUNNING,
        _D: _NOT_RUNNING,
    },
    Verb.UNPAUSE: {_C: _NOT_PAUSED, _R: _NOT_PAUSED, _S: _NOT_PAUSED, _V: _NOT_PAUSED, _E: _NOT_PAUSED, _D: _NOT_PAUSED},
    Verb.RENAME: {_V: _NO_RENAME, _D: _NO_RENAME},
    Verb.UPDATE: {_V: _NO_UPDATE, _D: _NO_UPDATE},
    Verb.REMOVE: {_R: _IS_RUNNING, _P: _IS_PAUSED, _S: _IS_RUNNING, _V: _GOING},
    Verb.FORCE_REMOVE: {_V: _GOING},
    Verb.EXEC: {
        _C: _NOT_RUNNING,
        _P: Refusal(Conflict, "Container {id} is paused, unpause the container before exec"),
        _S: _RESTARTING,
        _V: _NOT_RUNNING,
        _E: _NOT_RUNNING,
        _D: _NOT_RUNNING,
    },
    # Attaching comes before starting: clients want the first byte.
    Verb.ATTACH: {
        _P: Refusal(Conflict, "Container {id} is paused, unpause the container before attach"),
        _S: _RESTARTING,
        _V: _NOT_RUNNING,
        _D: _NOT_RUNNING,
    },
    Verb.RESIZE: {_C: _NOT_RUNNING, _S: _NOT_RUNNING, _V: _NOT_RUNNING, _E: _NOT_RUNNING, _D: _NOT_RUNNING},
}

MOVES: dict[State, frozenset[State]] = {
    _C: frozenset({_R, _V}),
    _R: frozenset({_P, _S, _E}),
    _P: frozenset({_R, _S, _E}),
    _S: frozenset({_R, _E}),
    _E: frozenset({_R, _S, _V}),
    _V: frozenset({_D}),
    _D: frozenset({_V}),
}
"""From each state to which others; EXITED to RESTARTING is the engine's own start, that begins again what a policy wants."""

ALIVE = frozenset({State.RUNNING, State.PAUSED})
"""States in which there is a process."""
IDLE = frozenset({State.CREATED, State.EXITED, State.DEAD})
"""States that nothing leaves by itself."""


def check(verb: Verb, record: Record) -> None:
    """The verb is legal now; raises what `REFUSALS` says else."""
    refusal = REFUSALS[verb].get(record.life.state)
    if refusal is not None:
        raise refusal.error(refusal.text.format(id=record.id, name=record.name))


def check_move(old: State, new: State) -> None:
    """The change of state is one of `MOVES`, or none; raises AssertionError: it is our own mistake."""
    if old != new and new not in MOVES[old]:
        raise AssertionError(f"a container goes from {old} to {new}")
