"""One stage of a build as a value, and what the instructions that change its config alone make of it; must not know of files,
containers or caches.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

from runtime.build.dockerfile import Instruction
from runtime.build.expand import expand, expand_words
from runtime.config import ContainerConfig, Healthcheck
from runtime.errors import InvalidParameter
from runtime.images.image import Descriptor, ImageConfig

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = frozenset(
    name for proxy in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for name in (proxy, proxy.upper())
)
"""Build arguments that need no ARG, and are neither in history nor in what decides about the cache."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNITS_NS = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "µs": 1000, "ns": 1}


@dataclass(frozen=True, slots=True)
class Stage:
    """What has been built so far of one FROM."""

    image: str = ""
    """Id of the image so far; "": nothing, as after FROM scratch."""
    layer: str = ""
    """Chain id of its topmost layer; "": none."""
    config: ImageConfig = field(default_factory=ImageConfig)
    blobs: tuple[Descriptor, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Those declared by ARG, with the values they have."""
    has_cmd: bool = False
    """CMD stood in this stage: ENTRYPOINT leaves it alone."""

    @property
    def variables(self) -> dict[str, str]:
        """What words are expanded with: ENV wins over ARG."""
        return {**self.arguments, **environment(self.config.config.env)}

    @property
    def shell(self) -> tuple[str, ...]:
        return self.config.config.shell or DEFAULT_SHELL

    def with_config(self, **changes: object) -> Stage:
        """The same with another container config."""
        return replace(self, config=structs.replace(self.config, config=structs.replace(self.config.config, **changes)))


def environment(env: Sequence[str]) -> dict[str, str]:
    """NAME=value texts as a mapping."""
    return {name: value for name, _, value in (text.partition("=") for text in env)}


def set_variables(env: Sequence[str], pairs: Mapping[str, str]) -> tuple[str, ...]:
    """The texts with these names set, each where it stood before."""
    return tuple(f"{name}={value}" for name, value in {**environment(env), **pairs}.items())


def expanded(instruction: Instruction, stage: Stage, escape: str) -> tuple[str, ...]:
    """The arguments with variables replaced, in the instructions that replace them."""
    variables = stage.variables
    if instruction.keyword == "EXPOSE":
        return tuple(word for argument in instruction.arguments for word in expand_words(argument, variables, escape))
    if instruction.keyword in ("ADD", "COPY", "ENV", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR", "ARG"):
        return tuple(expand(argument, variables, escape) for argument in instruction.arguments)
    return instruction.arguments


def apply(instruction: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    """The stage after an instruction of CONFIG_ONLY; raises InvalidParameter."""
    return CONFIG_ONLY[instruction.keyword](instruction, words, stage)


def described(instruction: Instruction, words: Sequence[str], stage: Stage) -> str:
    """What history says of such an instruction, and the cache goes by."""
    if instruction.keyword in ("ENV", "LABEL"):
        text = " ".join(f"{name}={value}" for name, value in zip(words[::2], words[1::2], strict=True))
    elif instruction.keyword in ("CMD", "ENTRYPOINT"):
        text = json.dumps(_command(instruction, words, stage))
    elif instruction.keyword == "VOLUME":
        text = f"[{' '.join(words)}]"
    elif instruction.keyword == "HEALTHCHECK":
        text = instruction.original.partition(" ")[2]
    else:
        text = " ".join(words)
    return f"{' '.join(DEFAULT_SHELL)} #(nop)  {instruction.keyword} {text}"


def _env(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    return stage.with_config(env=set_variables(stage.config.config.env, pairs))


def _label(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    return stage.with_config(labels={**stage.config.config.labels, **pairs})


def _maintainer(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    return replace(stage, config=structs.replace(stage.config, author=words[0]))


def _command(instruction: Instruction, words: Sequence[str], stage: Stage) -> tuple[str, ...]:
    return tuple(words) if instruction.exec_form else (*stage.shell, words[0]) if words else ()


def _cmd(instruction: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    return replace(stage.with_config(cmd=_command(instruction, words, stage)), has_cmd=True)


def _entrypoint(instruction: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    changed = stage.with_config(entrypoint=_command(instruction, words, stage))
    return changed if stage.has_cmd else changed.with_config(cmd=())  # a base image's CMD was meant for another program


def _shell(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    if not words:
        raise InvalidParameter("SHELL requires at least one argument")
    return stage.with_config(shell=tuple(words))


def _user(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    if not words[0].strip():
        raise InvalidParameter("USER requires exactly one argument")
    return stage.with_config(user=words[0])


def workdir(path: str, stage: Stage) -> str:
    """Where WORKDIR leads to from where the stage is."""
    if not path:
        raise InvalidParameter("cannot normalize nothing")
    return "/" + posixpath.normpath(posixpath.join("/", stage.config.config.working_dir, path)).lstrip("/")


def _workdir(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    return stage.with_config(working_dir=workdir(words[0], stage))


def _volume(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    paths = [word.strip() for word in words]
    if not all(paths):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    return stage.with_config(volumes={**stage.config.config.volumes, **{path: {} for path in paths}})


def _expose(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    ports = {port: dict[str, str]() for word in words for port in exposed(word)}
    return stage.with_config(exposed_ports={**stage.config.config.exposed_ports, **ports})


def exposed(word: str) -> list[str]:
    """The ports of "80", "80/udp" or "8000-8010/tcp", each with its protocol; raises InvalidParameter."""
    numbers, _, protocol = word.partition("/")
    first, _, last = numbers.partition("-")
    protocol = protocol.lower() or "tcp"
    try:
        low, high = int(first), int(last or first)
    except ValueError:
        low, high = 0, -1
    if not (0 < low <= high < 65536) or protocol not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f"invalid containerPort: {word}")
    return [f"{port}/{protocol}" for port in range(low, high + 1)]


def _stop_signal(_: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    return stage.with_config(stop_signal=words[0])


def _on_build(instruction: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    trigger = words[0].split(None, 1)[0].upper()
    if trigger in ("ONBUILD", "FROM", "MAINTAINER"):
        why = (
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"
            if trigger == "ONBUILD"
            else f"{trigger} isn't allowed as an ONBUILD trigger"
        )
        raise InvalidParameter(f"dockerfile parse error line {instruction.line}: {why}")
    return stage.with_config(on_build=(*stage.config.config.on_build, words[0]))


def _healthcheck(instruction: Instruction, words: Sequence[str], stage: Stage) -> Stage:
    kind, command = words[0], tuple(words[1:])
    if kind == "NONE":
        if command:
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        return stage.with_config(healthcheck=Healthcheck(test=("NONE",)))
    if kind != "CMD":
        raise InvalidParameter(f"Unknown type {json.dumps(kind)} in HEALTHCHECK (try CMD)")
    if not command:
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    test = ("CMD", *command) if instruction.exec_form else ("CMD-SHELL", *command)
    times = {name: _duration(name, instruction.flag(name)) for name in ("interval", "timeout", "start-period", "start-interval")}
    retries = instruction.flag("retries") or "0"
    if not retries.isdecimal():
        raise InvalidParameter(f'strconv.ParseInt: parsing "{retries}": invalid syntax')
    check = Healthcheck(
        test=test,
        interval=times["interval"],
        timeout=times["timeout"],
        start_period=times["start-period"],
        start_interval=times["start-interval"],
        retries=int(retries),
    )
    return stage.with_config(healthcheck=check)


def _duration(name: str, text: str) -> int:
    """Nanoseconds of a Go duration ("1m30s"); "" is 0."""
    if not text:
        return 0
    parts = _DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        raise InvalidParameter(f'invalid duration "{text}" of --{name}, expected one such as 30s or 1m30s')
    found = sum(int(float(number) * _UNITS_NS[unit]) for number, unit in parts)
    if 0 < found < 1_000_000:
        raise InvalidParameter(f"Interval {json.dumps(name)} cannot be less than 1ms")
    return found


CONFIG_ONLY: dict[str, Callable[[Instruction, Sequence[str], Stage], Stage]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _on_build,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
"""Instructions that leave the file system alone (WORKDIR: once its directory is there), and what each does."""

BASE = Stage(config=ImageConfig(config=ContainerConfig(env=(f"PATH={DEFAULT_PATH}",))))
"""FROM scratch."""
