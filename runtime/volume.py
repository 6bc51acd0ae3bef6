"""A volume as it is remembered, and what names, options and filters mean; pure, must not know where volumes are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import field

from runtime.errors import InvalidParameter, NotFound

LOCAL = "local"
ANONYMOUS = "com.docker.volume.anonymous"
"""Label of a volume that nobody has named: `volume prune` takes no others unless asked."""
_CHARACTERS = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(rf"{_CHARACTERS}+")
_NAME_MAX = 255
_KIND = re.compile(r"[a-z0-9][a-z0-9_.-]*")
"""Of a file system: mount(8) runs a program by this name."""
_OPTIONS = ("type", "device", "o", "size")
_NEEDED = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_TRUE, _FALSE = ("1", "true", "True", "TRUE", "t", "T"), ("0", "false", "False", "FALSE", "f", "F")
_LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS = frozenset({"all", "label", "label!"})

Filters = Mapping[str, Sequence[str]]
"""Values by key; of several values of one key one is enough, but all labels are wanted."""


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that outlives the containers that use it."""

    name: str
    driver: str = LOCAL
    created: str
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    """The driver's: type, device and o as mount(8) takes them; empty: a directory of the host's."""
    mountpoint: str = ""
    """What containers see."""

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS in self.labels

    @property
    def is_mounted_on_use(self) -> bool:
        """Whether it is a file system of its own."""
        return "device" in self.options


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune has removed."""

    names: tuple[str, ...]
    bytes: int


def check_name(name: str) -> None:
    """Raises InvalidParameter unless it is a name, which is then a safe component of a path."""
    if len(name) == 1:
        raise InvalidParameter(f"create {name}: volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "{_CHARACTERS}" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )
    if len(name) > _NAME_MAX:
        raise InvalidParameter(f"volume name is too long, expected at most {_NAME_MAX} characters")


def check_driver(name: str, driver: str, options: Mapping[str, str]) -> None:
    """Raises NotFound for a driver that we are not, InvalidParameter for options that the local one has not."""
    if driver != LOCAL:
        raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
    for option in options:
        if option not in _OPTIONS:
            raise InvalidParameter(f'invalid option: "{option}"')
    for option, needed in _NEEDED.items():
        for other in needed if option in options else ():
            if other not in options:
                raise InvalidParameter(f'missing required option: "{other}"')
    if "size" in options:
        raise InvalidParameter("quota size requested but no quota support")
    if any("\0" in value for value in options.values()):
        raise InvalidParameter("expected options without NUL")
    if "type" in options and not _KIND.fullmatch(options["type"]):
        raise InvalidParameter(f'invalid option: "type={options["type"]}"')


def is_listed(volume: Volume, filters: Filters, in_use: bool) -> bool:
    """Whether `volume ls` with these filters shows it; raises InvalidParameter for a filter that there is not."""
    _check_keys(filters, _LIST_FILTERS)
    if "dangling" in filters and _flag("dangling", filters) is in_use:
        return False
    if "driver" in filters and volume.driver not in filters["driver"]:
        return False
    if "name" in filters and not any(_found(pattern, volume.name) for pattern in filters["name"]):
        return False
    return _has_labels(volume, filters.get("label", ()))


def is_pruned(volume: Volume, filters: Filters) -> bool:
    """Whether `volume prune` with these filters removes it, if nobody uses it; raises InvalidParameter."""
    _check_keys(filters, _PRUNE_FILTERS)
    if not volume.anonymous and not ("all" in filters and _flag("all", filters)):
        return False
    unwanted = filters.get("label!", ())
    return _has_labels(volume, filters.get("label", ())) and not (unwanted and _has_labels(volume, unwanted))


def _check_keys(filters: Filters, known: frozenset[str]) -> None:
    for key in filters:
        if key not in known:
            raise InvalidParameter(f"invalid filter '{key}'")


def _flag(key: str, filters: Filters) -> bool:
    values = tuple(filters[key])
    if values and all(value in _TRUE for value in values):
        return True
    if values and all(value in _FALSE for value in values):
        return False
    raise InvalidParameter(f"invalid filter '{key}=[{' '.join(values)}]'")


def _found(pattern: str, name: str) -> bool:
    try:
        return pattern in name or re.search(pattern, name) is not None
    except re.error:
        return False


def _has_labels(volume: Volume, wanted: Sequence[str]) -> bool:
    return all(_has_label(volume, text) for text in wanted)


def _has_label(volume: Volume, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in volume.labels and (not equals or volume.labels[key] == value)
