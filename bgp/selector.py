"""Which hosts a setting is for, by their labels, in Kubernetes' words; must not know whose labels, nor what is set.

    rack=r1,role!=edge      rack in (r1, r2)      rack notin (r1)      gpu      !gpu      name == h1      address in (10.0.1.0/24)

The grammar is that of Kubernetes' label selectors: requirements with commas between, all of which must hold; `!=` and `notin` hold
without the label too; an empty selector matches every host. The label `address` is a host's addresses, and is compared with
addresses and networks: `address=10.0.1.0/24` holds if one of them is inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from bgp.section import read_address, read_network
from flanneld.config import ConfigError
from flanneld.lease import IPAddress, IPNetwork

NAME = "name"
"""The host's name, as a label that every host has."""
ADDRESS = "address"
"""The host's addresses with commas between, as a label that every host has."""

TOKEN = re.compile(r"\s*(?P<token>==|!=|[=!,()]|[^\s=!,()]+|\Z)")
END = ""
PART = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
KEY = re.compile(rf"(?:{PART}/)?{PART}")
VALUE = re.compile(rf"(?:{PART})?")
LONGEST = 253
"""Characters of a key or value: a DNS name's (a label of Kubernetes' has 63, but a host's name may be longer)."""
SHOWN_AROUND = 30
"""Characters before and after the place of an error that its message shows."""


class Operator(Enum):
    """How a requirement looks at its label."""

    IN = "in"
    NOT_IN = "notin"
    PRESENT = "present"
    ABSENT = "absent"


COMPARISONS = {"=": Operator.IN, "==": Operator.IN, "!=": Operator.NOT_IN}
SETS = {"in": Operator.IN, "notin": Operator.NOT_IN}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()
    """What IN and NOT_IN compare with; may have the empty text in it."""
    networks: tuple[IPNetwork, ...] = ()
    """The same, for the label `address`."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case Operator.PRESENT:
                return value is not None
            case Operator.ABSENT:
                return value is None
            case Operator.IN:
                return value is not None and self._has(value)
            case Operator.NOT_IN:
                return value is None or not self._has(value)

    def _has(self, value: str) -> bool:
        if self.key != ADDRESS:
            return value in self.values
        return any(address in network for address in parse_addresses(value) for network in self.networks)


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that must all hold; none: every host."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)


EVERY_HOST = Selector()


def parse_selector(text: str, key: str) -> Selector:
    """Read a selector; raises ConfigError, about `key`, that shows the place."""
    return _Reader(text, key).selector()


def parse_addresses(text: str) -> tuple[IPAddress, ...]:
    """The addresses in a host's label `address`; what is none is left out."""
    found = []
    for part in text.split(","):
        try:
            found.append(read_address(part))
        except ValueError:
            continue
    return tuple(found)


def requirement(label: str, operator: Operator, values: Sequence[str]) -> Requirement:
    """A comparison with any of the values."""
    networks = tuple(map(read_network, values)) if label == ADDRESS else ()
    return Requirement(label, operator, frozenset(values), networks)


class _Reader:
    """One text, read from left to right, one token ahead."""

    def __init__(self, text: str, key: str) -> None:
        self._text = text
        self._key = key
        self._tokens = TOKEN.finditer(text)  # without a gap: every character but white space begins a token, and so does the end
        self._advance()

    def selector(self) -> Selector:
        requirements: list[Requirement] = []
        while requirements or self._next != END:
            requirements.append(self._requirement())
            if self._next == END:
                break
            self._take(",", "a comma or the end")
        return Selector(tuple(requirements))

    def _requirement(self) -> Requirement:
        if self._next == "!":
            self._advance()
            return Requirement(self._word(KEY, "a label's name"), Operator.ABSENT)
        label = self._word(KEY, "a label's name")
        operator = self._next
        if operator in COMPARISONS:
            self._advance()
            return requirement(label, COMPARISONS[operator], [self._value(label)])
        if operator in SETS:
            self._advance()
            return requirement(label, SETS[operator], self._values(label))
        if operator not in (",", END):
            self._wrong("=, ==, !=, in, notin, a comma or the end")
        return Requirement(label, Operator.PRESENT)

    def _values(self, label: str) -> list[str]:
        self._take("(", "an opening parenthesis")
        values = [self._value(label)]
        while self._next == ",":
            self._advance()
            values.append(self._value(label))
        self._take(")", "a comma or a closing parenthesis")
        return values

    def _value(self, label: str) -> str:
        if label == ADDRESS:
            return self._network()
        if self._next in (",", ")", END):
            return ""
        return self._word(VALUE, "a value of letters, digits, '-', '_' and '.'")

    def _network(self) -> str:
        text, expected = self._next, "an address or a network like 10.0.1.0/24"
        try:
            read_network(text)
        except ValueError:
            self._wrong(expected)
        self._advance()
        return text

    def _word(self, form: re.Pattern[str], expected: str) -> str:
        word = self._next
        if word == END or len(word) > LONGEST or not form.fullmatch(word):
            self._wrong(expected)
        self._advance()
        return word

    def _take(self, token: str, expected: str) -> None:
        if self._next != token:
            self._wrong(expected)
        self._advance()

    def _advance(self) -> None:
        found = next(self._tokens)
        self._next, self._start = found["token"], found.start("token")

    def _wrong(self, expected: str) -> NoReturn:
        before = self._text[max(0, self._start - SHOWN_AROUND) : self._start]
        after = self._text[self._start : self._start + SHOWN_AROUND]
        place = f"at character {self._start + 1}, before {json.dumps(after)}" if after else "at the end"
        follows = f", after {json.dumps(before)}" if before else ""
        raise ConfigError(self._key, f"expected {expected} {place}{follows}")
