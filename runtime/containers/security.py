"""What `--security-opt` says, taken apart; must not know how any of it is enforced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import InvalidParameter

UNCONFINED = "unconfined"
BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class Security:
    """A container's security options."""

    seccomp: str = ""
    """"": the default; unconfined; else a profile's JSON."""
    apparmor: str = ""
    labels: tuple[str, ...] = ()
    """SELinux's."""
    no_new_privileges: bool = False
    unconfined_paths: bool = False
    """Neither masks nor read-only paths in /proc and /sys."""


def parse_security(options: Iterable[str]) -> Security:
    """All options together, later ones first; raises InvalidParameter for one that is none."""
    words: dict[str, str] = {}
    labels: list[str] = []
    for option in options:
        key, value = _key_and_value(option)
        if key == "label":
            labels.append(value)
        words[key] = value
    seccomp = words.get("seccomp", "")
    return Security(
        seccomp="" if seccomp == BUILTIN else seccomp,
        apparmor=words.get("apparmor", ""),
        labels=tuple(labels),
        no_new_privileges=_truth("no-new-privileges", words),
        unconfined_paths=words.get("systempaths") == UNCONFINED,
    )


def _key_and_value(option: str) -> tuple[str, str]:
    if option == "no-new-privileges":
        return option, "true"
    # "=" is Docker's separator, ":" what it was before: label:disable.
    key, separator, value = option.partition("=" if "=" in option else ":")
    if not separator:
        raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
    known = key in ("seccomp", "apparmor", "label", "no-new-privileges")
    if not (known or (key, value) == ("systempaths", UNCONFINED)):
        raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return key, value


def _truth(key: str, words: dict[str, str]) -> bool:
    value = words.get(key, "false")
    if value.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidParameter(f'invalid --security-opt 2: "{key}={value}"')
    return value.lower() in ("1", "t", "true")
