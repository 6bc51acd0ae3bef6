"""What a program said last, for errors."""

from __future__ import annotations

from pathlib import Path

LINES = 10


def last_lines(log: Path) -> str:
    """The end of a log, indented; says so when there is none."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"  {line}" for line in lines[-LINES:]) or f"  (nothing in {log})"
