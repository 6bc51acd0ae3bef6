"""What a CNI plugin that refuses something has to say: the gist of its words, and a code of the spec (CNI spec 1.1.0 §5.4).

Go's plugins give most errors the code 999. The one table of what those that follow the spec give is here.
"""

from __future__ import annotations

from enum import Enum

from cni_world import CniHost, Outcome

GO_UNSPECIFIC = 999
WELL_KNOWN = frozenset({1, 2, 3, 4, 5, 6, 7, 11, 50, 51})
OWN = frozenset(range(100, GO_UNSPECIFIC))


class Fault(Enum):
    """What is wrong, and the codes that say so."""

    VERSION = frozenset({1})
    ENVIRONMENT = frozenset({4})
    NAMESPACE = frozenset({3, 4, 5, 8})
    """There is none at CNI_NETNS: a bad value, or a container that went away."""
    NOT_JSON = frozenset({6})
    CONFIGURATION = frozenset({7})
    ARGUMENT = frozenset({4, 7})
    """In CNI_ARGS, which is environment, and in `args` and `runtimeConfig`, which are configuration."""
    LATER = frozenset({11})
    """Not now, but perhaps when something else has gone."""
    OTHER = WELL_KNOWN | OWN
    """In conflict with what is there, or what the spec has no code for."""


def refused(host: CniHost, outcome: Outcome, fault: Fault, *gists: str) -> None:
    """Assert that it was, by JSON on stdout that contains each of these texts, with a fitting code."""
    for gist in gists:
        assert gist.lower() in outcome.text.lower(), outcome
    codes = fault.value if host.plugins.spec_codes else fault.value | {GO_UNSPECIFIC}
    assert outcome.error["code"] in codes, (fault, outcome)
