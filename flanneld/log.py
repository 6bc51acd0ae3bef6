"""Logging: one line per change of state, an event that is a constant phrase and facts that are fields; must not know any event.

log = Log(__name__)
log.info("lease acquired", subnet=lease, expires_s=86400)

time=2026-11-23T15:50:53.123Z level=info event="lease acquired" subnet=10.5.72.0/24 expires_s=86400
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import deque
from datetime import UTC, datetime
from typing import TextIO

FACTS = "facts"
"""Where a log record carries its facts, for a formatter or a test: `record.facts`, a mapping."""


class Log:
    """A module's logger, which takes facts as keyword arguments: shown by `str`, left out when None."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, phrase: str, **facts: object) -> None:
        self._logger.debug(phrase, extra={FACTS: facts})

    def info(self, phrase: str, **facts: object) -> None:
        self._logger.info(phrase, extra={FACTS: facts})

    def warning(self, phrase: str, **facts: object) -> None:
        self._logger.warning(phrase, extra={FACTS: facts})

    def error(self, phrase: str, **facts: object) -> None:
        self._logger.error(phrase, extra={FACTS: facts})

    def exception(self, phrase: str, **facts: object) -> None:
        """An error that nobody foresaw, with the traceback of the exception being handled."""
        self._logger.error(phrase, extra={FACTS: facts}, exc_info=True)


class Once:
    """Says a thing when it is new and is silent while it stays the same: for what a retry loop finds again and again.

    once = Once(log)
    once.warning("etcd", "etcd unavailable", error=error)   # any number of times, logged when the error changes
    if once.over("etcd"):                                   # true if anything had been said
        log.info("etcd available again")
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._said: dict[str, str] = {}

    def warning(self, subject: str, phrase: str, **facts: object) -> None:
        """Log unless it is what was said last about the subject."""
        if self._is_new(subject, phrase, facts):
            self._log.warning(phrase, **facts)

    def info(self, subject: str, phrase: str, **facts: object) -> None:
        """Log unless it is what was said last about the subject."""
        if self._is_new(subject, phrase, facts):
            self._log.info(phrase, **facts)

    def over(self, subject: str) -> bool:
        """Forget the subject, so that its return is news; true if there was something to forget."""
        return self._said.pop(subject, None) is not None

    def _is_new(self, subject: str, phrase: str, facts: dict[str, object]) -> bool:
        line = f"{phrase} {facts_line(facts)}"
        last, self._said[subject] = self._said.get(subject), line
        return last != line


class Paced:
    """Says how a thing stands: changes at once while they are few, a line a second in a storm, the last one always."""

    FEW, EVERY_S = 5, 1.0

    def __init__(self, log: Log, phrase: str) -> None:
        self._once, self._phrase = Once(log), phrase
        self._at: deque[float] = deque(maxlen=self.FEW)
        """When the last lines were written, or are to be."""
        self._later: asyncio.TimerHandle | None = None
        self._facts: dict[str, object] = {}

    def info(self, **facts: object) -> None:
        """Log it, now or in a while, unless it is what was said last; to be called in an event loop."""
        self._facts = facts
        if self._later is not None:
            return
        loop = asyncio.get_running_loop()
        if len(self._at) < self.FEW or loop.time() - self._at[0] >= self.FEW * self.EVERY_S:
            self._say(loop.time())
        else:
            self._later = loop.call_later(self.EVERY_S, lambda: self._say(loop.time()))

    def forget(self) -> None:
        """What was said last is to be said again when it is so again."""
        self._once.over("")

    def _say(self, now: float) -> None:
        self._later = None
        self._at.append(now)
        self._once.info("", self._phrase, **self._facts)


class TextFormatter(logging.Formatter):
    """key=value on one line, a value that is not one plain word as a JSON string; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line = facts_line(fields(record))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """The same fields as one JSON object on a line, numbers and booleans as such; a traceback is the field of that name."""

    def format(self, record: logging.LogRecord) -> str:
        shown = fields(record)
        if record.exc_info:
            shown["traceback"] = self.formatException(record.exc_info)
        return json.dumps({key: value if isinstance(value, int | float) else str(value) for key, value in shown.items()})


FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def set_up(form: str, *, debug: bool = False, stream: TextIO | None = None) -> None:
    """Send everything that is logged to stderr in one form, "text" or "json"; a second call replaces the first."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FORMATTERS[form]())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Everything a line shows, in order: time, level, event, then the facts."""
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    facts: dict[str, object] = getattr(record, FACTS, {})
    known = {key: value for key, value in facts.items() if value is not None}
    return {"time": time, "level": record.levelname.lower(), "event": record.getMessage()} | known


def facts_line(facts: dict[str, object]) -> str:
    """Fields as key=value."""
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in facts.items())


def _quoted(text: str) -> str:
    plain = text.isprintable() and text and not any(character in text for character in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
