"""Progress of something long as the lines of Docker's JSON streams; must not know what makes progress."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from runtime.docker_api.iterating import closing

if TYPE_CHECKING:
    from runtime.images.progress import Progress


async def progress_lines(steps: AsyncIterator[Progress]) -> AsyncIterator[dict[str, Any]]:
    """Each step as a line."""
    async with closing(steps):
        async for step in steps:
            yield progress_line(step)


def progress_line(step: Progress) -> dict[str, Any]:
    """A step without what it does not say."""
    line: dict[str, Any] = {
        key: value for key, value in (("stream", step.stream), ("status", step.status), ("id", step.id)) if value
    }
    if step.current or step.total:
        line["progressDetail"] = {"current": step.current, **({"total": step.total} if step.total else {})}
    elif step.status and step.id:
        line["progressDetail"] = {}
    if step.aux is not None:
        line["aux"] = dict(step.aux)
    if step.error:
        code = {"code": step.code} if step.code else {}
        line |= {"errorDetail": {**code, "message": step.error}, "error": step.error}
    return line
