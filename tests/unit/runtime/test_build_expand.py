from __future__ import annotations

import pytest

from runtime.build.expand import expand, expand_words
from runtime.errors import InvalidParameter

VARIABLES = {"a": "1", "empty": "", "path": "/usr/local/bin", "spaces": "x y", "name": "img.tar.gz"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$a", "1"),
        ("${a}b", "1b"),
        ("$unset", ""),
        ("'$a'", "$a"),
        ('"$a b"', "1 b"),
        ("\\$a", "$a"),
        ('"\\$a"', "$a"),
        ('"\\n"', "\\n"),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("$%", "$%"),
        ("${unset:-w}", "w"),
        ("${empty:-w}", "w"),
        ("${empty-w}", ""),
        ("${unset-$a}", "1"),
        ("${a:+w}", "w"),
        ("${empty:+w}", ""),
        ("${empty+w}", "w"),
        ("${name#*.}", "tar.gz"),
        ("${name##*.}", "gz"),
        ("${name%.*}", "img.tar"),
        ("${name%%.*}", "img"),
        ("${path/local/x}", "/usr/x/bin"),
        ("${path//\\//-}", "-usr-local-bin"),
        ("${unset:-${a}}", "1"),
        ('${unset:-"a b"}', "a b"),
    ],
)
def test_words_are_expanded_as_in_a_shell(word: str, expected: str) -> None:
    assert expand(word, VARIABLES) == expected


def test_white_space_of_a_variable_separates_words_outside_of_quotes() -> None:
    assert expand_words("$spaces", VARIABLES) == ["x", "y"]
    assert expand_words('"$spaces"', VARIABLES) == ["x y"]
    assert expand_words("$empty", VARIABLES) == []


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("${unset:?tell}", "unset: tell"),
        ("${a", "missing|modifier"),
        ("'a", "single-quote"),
        ('"a', "double-quote"),
        ("${}", "bad"),
    ],
)
def test_what_cannot_be_expanded_is_refused(word: str, why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        expand(word, VARIABLES)
