"""How a call of our plugins' code was refused, for tests in which either outcome is right."""

from __future__ import annotations

from collections.abc import Callable

from cni.spec import CniError


def refusal(call: Callable[[], object]) -> CniError | None:
    """The error it raised, None when it raised none."""
    try:
        call()
    except CniError as error:
        return error
    return None


def code_of(call: Callable[[], object]) -> int | None:
    """The code of the error it raised, None when it raised none."""
    error = refusal(call)
    return None if error is None else error.code
