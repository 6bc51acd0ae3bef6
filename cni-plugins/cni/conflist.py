"""Network configurations as files: which plugins make a network, in which order, in which version; must not know how they are run.

Source: CNI spec 1.1.0 section 1. A single plugin's configuration, which the spec had until 0.4.0, is a list of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.config import Section, decode_config
from cni.spec import NAME, OLDEST, VERSIONS, CniError
from flanneld import FlanneldError

DIRECTORY = Path("/etc/cni/net.d")
SUFFIXES = (".conf", ".conflist", ".json")
"""Of files that may be a network; all others (an editor's, a package manager's) are passed over."""


class ConflistError(FlanneldError):
    """There is no such network, or its file makes no sense; names the file and what is wrong in it."""


@dataclass(frozen=True, slots=True)
class PluginConf:
    """One plugin of a network."""

    type: str
    """Its executable's name."""
    values: Mapping[str, Any]
    """The configuration as it was written."""
    capabilities: frozenset[str] = frozenset()
    """What it wants to be told at runtime."""


@dataclass(frozen=True, slots=True)
class Conflist:
    """A network: its plugins in the order of ADD."""

    name: str
    version: str
    """The newest that the configuration offers and we speak."""
    plugins: tuple[PluginConf, ...]
    raw: bytes
    """The JSON of all of it, plugins out of the folder too: what makes this value again, without any file."""
    disable_check: bool = False
    disable_gc: bool = False


def parse_conflist(data: bytes, directory: Path | None = None) -> Conflist:
    """A network out of its JSON, or of a single plugin's; with more plugins from `directory`/NAME/*.conf.

    Raises CniError (6, 7) about the JSON, ConflistError about a file in the folder.
    """
    values = decode_config(data)
    if "type" in values and "plugins" not in values:
        values = {key: values[key] for key in ("name", "cniVersion") if key in values} | {"plugins": [values]}
        data, directory = json.dumps(values).encode(), None
    section = Section(values)
    name = section.text("name")
    if not NAME.fullmatch(name):
        section.wrong("name", name, "letters, digits, '_', '.' and '-', the first a letter or digit")
    plugins = [_plugin(part) for part in section.sections("plugins")]
    if directory is not None and not _flag(section, "loadOnlyInlinedPlugins") and (more := _read_folder(directory / name)):
        plugins += more
        whole = {"plugins": [plugin.values for plugin in plugins], "loadOnlyInlinedPlugins": True}
        data = json.dumps(values | whole).encode()
    if not plugins:
        section.wrong("plugins", [], "one plugin or more")
    flags = (_flag(section, "disableCheck"), _flag(section, "disableGC"))
    return Conflist(name, _version(section), tuple(plugins), data, *flags)


def read_conflist(file: Path) -> Conflist:
    """The network that a file describes; raises ConflistError."""
    with _about(file):
        return parse_conflist(file.read_bytes(), file.parent)


def read_directory(directory: Path = DIRECTORY) -> tuple[list[Conflist], list[ConflistError]]:
    """The networks of a directory, in lexical order of their files, and why other files are none; raises ConflistError."""
    networks, wrong = [], []
    for file in _files(directory, SUFFIXES):
        try:
            networks.append(read_conflist(file))
        except ConflistError as error:
            wrong.append(error)
    return networks, wrong


def find_conflist(directory: Path = DIRECTORY, name: str = "") -> Conflist:
    """The network of that name; without one the first that makes sense, which is a runtime's default. Raises ConflistError."""
    networks, wrong = read_directory(directory)
    for network in networks:
        if name in ("", network.name):
            return network
    missing = f"no network {name!r} in {directory}" if name else f"no network in {directory}"
    found = f", which has {', '.join(sorted({network.name for network in networks}))}" if networks else ""
    raise ConflistError("; ".join([missing + found, *map(str, wrong)]))


def _read_folder(folder: Path) -> list[PluginConf]:
    found = []
    for file in _files(folder, (".conf",)):
        with _about(file):
            found.append(_plugin(Section(decode_config(file.read_bytes()))))
    return found


def _files(directory: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Lexically, as libcni and containerd look at them; none when there is no such directory."""
    with _about(directory):
        try:
            return sorted(path for path in directory.iterdir() if path.suffix in suffixes and not path.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []


def _plugin(section: Section) -> PluginConf:
    kind = section.text("type")
    if kind in ("", ".", "..") or "/" in kind:  # it becomes part of the path of what we execute
        section.wrong("type", kind, "a plugin's name, without '/'")
    capabilities = section.section("capabilities")
    return PluginConf(kind, section.values, frozenset(name for name in capabilities.values if capabilities.flag(name)))


def _version(section: Section) -> str:
    said = section.text("cniVersion")
    offered = (*section.texts("cniVersions"), *((said,) if said else ()))
    if not offered:
        return OLDEST  # as Go plugins answer a configuration that does not say
    both = [version for version in VERSIONS if version in offered]
    return both[-1] if both else section.wrong("cniVersion", " ".join(offered), f"one of {', '.join(VERSIONS)}")


def _flag(section: Section, key: str) -> bool:
    """A boolean, which may be written as a string (spec section 1)."""
    value = section.get(key)
    word = value.lower() if isinstance(value, str) else ""
    return word == "true" if word in ("true", "false") else section.flag(key)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConflistError(f"{path}: {error.strerror}") from error
    except CniError as error:
        raise ConflistError(f"{path}: {error}") from error
