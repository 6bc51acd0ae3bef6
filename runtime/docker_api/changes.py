"""`--change` of commit and import: single instructions of a Dockerfile, applied to a config; must not know to whose."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.build.dockerfile import parse_instruction
from runtime.build.stage import CONFIG_ONLY, Stage, apply, expanded
from runtime.config import ContainerConfig
from runtime.errors import InvalidParameter
from runtime.images.image import ImageConfig

_NOT_A_CHANGE = frozenset({"MAINTAINER", "SHELL"})


def apply_changes(config: ContainerConfig, changes: Iterable[str]) -> ContainerConfig:
    """The config after these instructions; raises InvalidParameter."""
    stage = Stage(config=ImageConfig(config=config))
    for line in (line for text in changes for line in text.splitlines() if line.strip()):
        instruction = parse_instruction(line)
        if instruction.keyword not in CONFIG_ONLY or instruction.keyword in _NOT_A_CHANGE:
            raise InvalidParameter(f"{instruction.keyword.lower()} is not a valid change command")
        stage = apply(instruction, expanded(instruction, stage, "\\"), stage)
    return stage.config.config
