from __future__ import annotations

import pytest

from runtime.build.ignore import parse_ignore
from runtime.errors import InvalidParameter


@pytest.mark.parametrize(
    ("patterns", "ignored", "kept"),
    [
        ("*.log", ["a.log"], ["sub/a.log", "a.txt"]),
        ("**/*.log", ["a.log", "sub/deep/a.log"], ["a.txt"]),
        ("node_modules", ["node_modules", "node_modules/x/y"], ["sub/node_modules"]),
        ("/dist/", ["dist/a"], ["a/dist"]),
        ("*\n!keep", ["a", "b/c"], ["keep", "keep/x"]),
        ("docs\n!docs/README.md", ["docs/a"], ["docs/README.md"]),
        ("!a\na", ["a"], ["b"]),
        ("a?c\n[xy]z", ["abc", "xz", "yz"], ["ac", "zz", "a/c"]),
        ("# all\n\n*/temp*", ["sub/temporary"], ["temp", "# all"]),
        ("a/**/b", ["a/b", "a/x/y/b"], ["b"]),
        ("\\!x", ["!x"], ["x"]),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: str, ignored: list[str], kept: list[str]) -> None:
    found = parse_ignore(patterns)
    assert all(path in found for path in ignored)
    assert not any(path in found for path in kept)


def test_a_pattern_that_is_none_is_named() -> None:
    with pytest.raises(InvalidParameter, match=r"illegal pattern 'a\[b'"):
        parse_ignore("a[b\n")
