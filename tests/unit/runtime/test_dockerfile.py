from __future__ import annotations

import pytest

from runtime.build.dockerfile import Dockerfile, parse_dockerfile
from runtime.errors import InvalidParameter


def words(text: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.keyword, one.arguments) for one in parse_dockerfile(text).instructions]


def test_a_multi_stage_file_is_read_as_it_stands() -> None:
    text = """
FROM node:22 AS build
WORKDIR /app
COPY package*.json ./
RUN npm ci && \\
    # a comment inside

    npm run build
FROM node:22-slim
COPY --from=build --chown=node:node /app/dist /app
EXPOSE 3000
CMD ["node", "server.js"]
"""
    assert words(text) == [
        ("FROM", ("node:22", "AS", "build")),
        ("WORKDIR", ("/app",)),
        ("COPY", ("package*.json", "./")),
        ("RUN", ("npm ci &&     npm run build",)),
        ("FROM", ("node:22-slim",)),
        ("COPY", ("/app/dist", "/app")),
        ("EXPOSE", ("3000",)),
        ("CMD", ("node", "server.js")),
    ]
    copy = parse_dockerfile(text).instructions[5]
    assert (copy.flag("from"), copy.flag("chown"), copy.line) == ("build", "node:node", 10)


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ('ENV A=1 B="two words" C=three\\ words', ("A", "1", "B", '"two words"', "C", "three\\ words")),
        ("ENV A the rest of it", ("A", "the rest of it")),
        ("LABEL a.b=c", ("a.b", "c")),
        ("RUN [ -f /etc/passwd ]", ("[ -f /etc/passwd ]",)),
        ('ENTRYPOINT ["/bin/sh", "-c"]', ("/bin/sh", "-c")),
        ("ENTRYPOINT exec top -b", ("exec top -b",)),
        ('VOLUME ["/a b"]', ("/a b",)),
        ("VOLUME /a /b", ("/a", "/b")),
        ("HEALTHCHECK --interval=5s CMD curl -f localhost", ("CMD", "curl -f localhost")),
        ('HEALTHCHECK CMD ["true"]', ("CMD", "true")),
        ("HEALTHCHECK NONE", ("NONE",)),
        ("ONBUILD COPY . /app", ("COPY . /app",)),
        ("ARG A=1 B", ("A=1", "B")),
        ("CMD", ()),
    ],
)
def test_arguments_are_those_of_the_instructions_form(line: str, arguments: tuple[str, ...]) -> None:
    assert words(f"FROM scratch\n{line}\n")[1][1] == arguments


def test_another_escape_continues_lines() -> None:
    file = parse_dockerfile("# escape=`\nFROM x\nCOPY a `\n  c:\\b\n")
    assert file == Dockerfile(file.instructions, "`")
    assert file.instructions[1].arguments == ("a", "c:\\b")


def test_a_directive_after_a_comment_is_a_comment() -> None:
    assert parse_dockerfile("# hello\n# escape=`\nFROM x\n").escape == "\\"


def test_here_documents_follow_their_instruction() -> None:
    file = parse_dockerfile("FROM x\nRUN <<-EOF cat\n\tone\nEOF\nCOPY <<'A' <<B /d/\n$x\nA\n$y\nB\nUSER me\n")
    run, copy, user = file.instructions[1:]
    assert [(one.content, one.expand) for one in run.heredocs] == [("one\n", True)]
    assert [(one.name, one.content, one.expand) for one in copy.heredocs] == [("A", "$x\n", False), ("B", "$y\n", True)]
    assert user.arguments == ("me",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be empty"),
        ("FROM x\nFORM y", "line 2: unknown instruction: FORM"),
        ("FROM x\nENV A", "line 2: ENV must have two arguments"),
        ("FROM x\nENV A=1 B", "can't find = in 'B'"),
        ("FROM x\nCOPY", "line 2: COPY requires at least one argument"),
        ("FROM x\nSHELL sh", "JSON form"),
        ("FROM x\nRUN <<EOF\nls\n", "unterminated heredoc EOF"),
        ("# escape=x\nFROM x", "invalid ESCAPE 'x'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        parse_dockerfile(text)
