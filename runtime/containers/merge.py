"""What a container is to be: a request's config on top of its image's; must not know the host, nor how it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from runtime.config import ContainerConfig, Healthcheck
from runtime.errors import InvalidParameter

V = TypeVar("V")


def merge(request: ContainerConfig, image: ContainerConfig | None) -> ContainerConfig:
    """The request, completed from the image (None: there is none); raises InvalidParameter when nothing is left to be run."""
    given = image or ContainerConfig()
    entrypoint, cmd = _program(request, given)
    if not entrypoint and not cmd:
        raise InvalidParameter("no command specified")
    fields = {name: getattr(request, name) for name in ContainerConfig.__struct_fields__}
    for name in ("user", "working_dir", "stop_signal", "stop_timeout", "shell"):
        fields[name] = fields[name] if fields[name] not in ("", (), None) else getattr(given, name)
    fields |= {
        "entrypoint": entrypoint,
        "cmd": cmd,
        "args_escaped": request.args_escaped or (cmd == given.cmd and not request.cmd and given.args_escaped),
        "env": (*request.env, *_not_named(given.env, request.env)),
        "labels": _beneath(given.labels, request.labels),
        "exposed_ports": _beneath(given.exposed_ports, request.exposed_ports),
        "volumes": _beneath(given.volumes, request.volumes),
        "healthcheck": _healthcheck(request.healthcheck, given.healthcheck),
    }
    return ContainerConfig(**fields)


def command(config: ContainerConfig) -> tuple[str, tuple[str, ...]]:
    """The program and its arguments; raises InvalidParameter when there is none."""
    words = (*config.entrypoint, *config.cmd)
    if not words:
        raise InvalidParameter("no command specified")
    return words[0], words[1:]


def _program(request: ContainerConfig, image: ContainerConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entrypoint and cmd. An entrypoint of the request's takes the image's cmd away, too; [""] does nothing else."""
    if request.entrypoint:
        return (() if request.entrypoint == ("",) else request.entrypoint), request.cmd
    return (() if image.entrypoint == ("",) else image.entrypoint), request.cmd or image.cmd


def _not_named(variables: tuple[str, ...], by: tuple[str, ...]) -> tuple[str, ...]:
    named = {variable.partition("=")[0] for variable in by}
    return tuple(variable for variable in variables if variable.partition("=")[0] not in named)


def _beneath(image: Mapping[str, V], request: Mapping[str, V]) -> dict[str, V]:
    return {**image, **request}


def _healthcheck(request: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    if request is None or image is None:
        return request or image
    missing = {name: getattr(image, name) for name in Healthcheck.__struct_fields__ if not getattr(request, name)}
    return msgspec.structs.replace(request, **missing)
