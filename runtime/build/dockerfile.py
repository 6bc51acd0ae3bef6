"""A Dockerfile's text as instructions (Dockerfile reference; the classic builder's rules, and BuildKit's here-documents besides);
must not know what any instruction does, nor expand variables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from runtime.errors import InvalidParameter

KEYWORDS = frozenset(
    {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "RUN"}
    | {"SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)
PAIRS = frozenset({"ENV", "LABEL"})
"""Instructions whose arguments are names with values."""
EXEC_FORM = frozenset({"ADD", "CMD", "COPY", "ENTRYPOINT", "HEALTHCHECK", "RUN", "SHELL", "VOLUME"})
"""Instructions whose arguments may be a JSON list of texts."""
WHOLE = frozenset({"CMD", "ENTRYPOINT", "MAINTAINER", "RUN", "STOPSIGNAL", "USER", "WORKDIR"})
"""Instructions whose arguments, unless a JSON list, are one text, to the end of the line."""
HEREDOCS = frozenset({"ADD", "COPY", "RUN"})
MOST_INSTRUCTIONS = 1000
"""Of a Dockerfile; overlay takes far fewer layers."""

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$")
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")
_HEREDOC = re.compile(r"(?:^|(?<=\s))(\d*)<<(-?)([\"']?)([A-Za-z_][A-Za-z0-9_.]*)\3(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A text of its own in a Dockerfile: `<<NAME` up to a line NAME."""

    name: str
    content: str
    expand: bool
    """Its name stood without quotes: variables are replaced."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, before variables are replaced."""

    keyword: str
    """In capitals."""
    arguments: tuple[str, ...]
    """ENV, LABEL: name, value, name, value; a WHOLE instruction not in exec form: one text; else words. Quotes still in place."""
    line: int
    """Of its first line, from 1."""
    original: str
    """As it stands, on one line: what "Step" shows."""
    flags: tuple[tuple[str, str], ...] = ()
    """(name, value) of --name=value; value "" for --name."""
    exec_form: bool = False
    heredocs: tuple[Heredoc, ...] = ()

    def flag(self, name: str) -> str:
        """The last value of that flag; "" when it is not there."""
        return dict(self.flags).get(name, "")


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """All of it."""

    instructions: tuple[Instruction, ...]
    escape: str = "\\"
    """Continues lines and takes a variable's meaning away."""


def parse_dockerfile(text: str) -> Dockerfile:
    """Read a Dockerfile; raises InvalidParameter with the line and what is wrong there."""
    lines = text.removeprefix("\ufeff").splitlines()
    escape, start = _directives(lines)
    instructions: list[Instruction] = []
    for number, logical, documents in _logical_lines(lines, start, escape):
        if len(instructions) >= MOST_INSTRUCTIONS:
            raise InvalidParameter(f"the Dockerfile has more than {MOST_INSTRUCTIONS} instructions")
        instructions.append(parse_instruction(logical, number, documents))
    if not instructions:
        raise InvalidParameter("the Dockerfile cannot be empty")
    return Dockerfile(tuple(instructions), escape)


def parse_instruction(text: str, line: int = 1, documents: Sequence[Heredoc] = ()) -> Instruction:
    """One instruction on one line; raises InvalidParameter."""
    keyword, _, rest = text.strip().partition(" ") if " " in text.strip() else _at_tab(text.strip())
    keyword = keyword.upper()
    if keyword not in KEYWORDS:
        raise InvalidParameter(f"dockerfile parse error line {line}: unknown instruction: {keyword}")
    flags, rest = _flags(rest.strip())
    if not rest and not (keyword in ("CMD", "ENTRYPOINT") or documents):
        raise InvalidParameter(f"dockerfile parse error line {line}: {keyword} requires at least one argument")
    made = Instruction(keyword, (), line, text.strip(), flags, heredocs=tuple(documents))
    return _with_arguments(made, rest)


def _at_tab(text: str) -> tuple[str, str, str]:
    keyword, *rest = text.split(None, 1) or [""]
    return keyword, " ", rest[0] if rest else ""


def _directives(lines: Sequence[str]) -> tuple[str, int]:
    """The escape character, and the first line that is no directive."""
    escape, seen = "\\", set()
    for number, line in enumerate(lines):
        match = _DIRECTIVE.fullmatch(line.strip())
        if not match or match[1].lower() not in ("escape", "syntax", "check"):
            return escape, number
        name = match[1].lower()
        if name in seen:
            raise InvalidParameter(f"dockerfile parse error line {number + 1}: only one {name} parser directive can be used")
        seen.add(name)
        if name == "escape":
            escape = match[2]
            if escape not in ("\\", "`"):
                raise InvalidParameter(f"dockerfile parse error line {number + 1}: invalid ESCAPE '{escape}'. Must be ` or \\")
    return escape, len(lines)


def _logical_lines(lines: Sequence[str], start: int, escape: str) -> Iterator[tuple[int, str, list[Heredoc]]]:
    """(number of the first line, instruction on one line, its here-documents)."""
    continued = re.compile(rf"{re.escape(escape)}[ \t]*$")
    place = start
    while place < len(lines):
        first, text = place, ""
        while place < len(lines):
            line = lines[place]
            place += 1
            if line.lstrip().startswith("#") or not line.strip():
                if text:
                    continue  # comments and empty lines inside an instruction are left out
                first = place
                continue
            match = continued.search(line)
            text += line[: match.start()] if match else line
            if not match:
                break
        if text.strip():
            documents, place = _heredocs(text, lines, place, first)
            yield first + 1, text.strip(), documents


def _heredocs(text: str, lines: Sequence[str], place: int, first: int) -> tuple[list[Heredoc], int]:
    """The here-documents that an instruction announces, which follow it; returns where the next instruction may be."""
    if text.split(None, 1)[0].upper() not in HEREDOCS or text.lstrip().split(None, 1)[-1].lstrip().startswith("["):
        return [], place
    documents = []
    for match in _HEREDOC.finditer(text):
        content = []
        while True:
            if place >= len(lines):
                raise InvalidParameter(f"dockerfile parse error line {first + 1}: unterminated heredoc {match[4]}")
            line = lines[place].lstrip("\t") if match[2] else lines[place]
            place += 1
            if line == match[4]:
                break
            content.append(line + "\n")
        documents.append(Heredoc(match[4], "".join(content), not match[3]))
    return documents, place


def _flags(rest: str) -> tuple[tuple[tuple[str, str], ...], str]:
    found = []
    while match := _FLAG.match(rest):
        found.append((match[1], match[2] or ""))
        rest = rest[match.end() :]
    return tuple(found), rest


def _with_arguments(made: Instruction, rest: str) -> Instruction:
    keyword = made.keyword
    if keyword in EXEC_FORM and keyword != "HEALTHCHECK" and (texts := _json_texts(rest)) is not None:
        return replace(made, arguments=texts, exec_form=True)
    if keyword == "SHELL":
        raise InvalidParameter(f"dockerfile parse error line {made.line}: SHELL requires the arguments to be in JSON form")
    if keyword in PAIRS:
        return replace(made, arguments=tuple(_pairs(made, rest)))
    if keyword == "HEALTHCHECK":
        kind, _, command = rest.partition(" ")
        texts = _json_texts(command.strip())
        words = texts if texts is not None else (command.strip(),) if command.strip() else ()
        return replace(made, arguments=(kind.upper(), *words), exec_form=texts is not None)
    if keyword == "ONBUILD" or keyword in WHOLE:
        return replace(made, arguments=(rest,) if rest else ())
    return replace(made, arguments=tuple(split_words(rest)))


def _json_texts(rest: str) -> tuple[str, ...] | None:
    """The texts of a JSON list of nothing else; None: it is not one, and so the shell form, as `RUN [ -f x ]` is."""
    if not rest.startswith("["):
        return None
    try:
        found = json.loads(rest)
    except ValueError:
        return None
    return tuple(found) if isinstance(found, list) and all(isinstance(text, str) for text in found) else None


def _pairs(made: Instruction, rest: str) -> Iterator[str]:
    words = list(split_words(rest))
    if "=" not in words[0]:  # ENV NAME the rest of the line
        parts = rest.split(None, 1)
        if len(parts) != 2:
            raise InvalidParameter(f"dockerfile parse error line {made.line}: {made.keyword} must have two arguments")
        yield from parts
        return
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            syntax = f"Syntax error - can't find = in {word!r}. Must be of the form: name=value"
            raise InvalidParameter(f"dockerfile parse error line {made.line}: {syntax}")
        if not name:
            raise InvalidParameter(f"dockerfile parse error line {made.line}: {made.keyword} names can not be blank")
        yield from (name, value)


def split_words(text: str, escape: str = "\\") -> Iterator[str]:
    """Words between white space; quoted parts hold together and keep their quotes."""
    start, quote, place = -1, "", 0
    while place < len(text):
        character = text[place]
        if character.isspace() and not quote:
            if start >= 0:
                yield text[start:place]
            start, place = -1, place + 1
            continue
        start = place if start < 0 else start
        if character == escape and quote != "'":
            place += 2
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        place += 1
    if start >= 0:
        yield text[start:]
