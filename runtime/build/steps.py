"""A Dockerfile carried out, instruction by instruction: which image each stands on, what was made before and is found again, what
is told to the client; must not know where the context came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import structs

from runtime.build.cache import BuildCache, step_key
from runtime.build.copying import Copy, Copying
from runtime.build.dockerfile import Dockerfile, Instruction, parse_instruction
from runtime.build.expand import expand
from runtime.build.options import BuildOptions
from runtime.build.running import Run, Runner
from runtime.build.stage import BASE, CONFIG_ONLY, DEFAULT_SHELL, PROXIES, Stage, apply, described, environment, expanded, workdir
from runtime.clock import now
from runtime.errors import InvalidParameter, NotFound
from runtime.images.image import OCI_LAYER, Descriptor, History, ImageConfig, encode_config
from runtime.images.platforms import host_platform

if TYPE_CHECKING:
    from runtime.images.layers import Committed
    from runtime.images.store import Images

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class Means:
    """What steps are done with."""

    images: Images
    cache: BuildCache
    runner: Runner
    copying: Copying
    base: Callable[[str], Awaitable[str]]
    """Finds or pulls a base image; gives its id."""
    say: Callable[[str], None]


class Steps:
    """One build, from the first FROM to the target."""

    def __init__(self, dockerfile: Dockerfile, options: BuildOptions, means: Means) -> None:
        self._escape = dockerfile.escape
        self._options = options
        self._means = means
        self._instructions = with_labels(targeted(dockerfile.instructions, options.target), options.labels)
        self._stages: dict[str, Stage] = {}
        """Finished ones, by name and by number."""
        self._stage: Stage | None = None
        self._global: dict[str, str] = {}
        """ARGs before the first FROM."""
        self._used: set[str] = set()
        """Build arguments that an ARG asked for."""
        self._cached = True
        """Every step of this stage so far was found."""

    async def run(self) -> Stage:
        """Carry out all of it; returns the last stage. Raises EngineError."""
        names: list[str] = []
        for number, instruction in enumerate(self._instructions, 1):
            self._means.say(f"Step {number}/{len(self._instructions)} : {instruction.original}\n")
            if instruction.keyword == "FROM":
                self._finish(names)
                names = [str(len([name for name in self._stages if name.isdecimal()])), *alias(instruction)]
                await self._from(instruction)
            elif self._stage is None:
                self._argument_before(instruction)
            else:
                await self._step(instruction, self._stage)
            if self._stage is not None and self._stage.image:
                self._means.say(f" ---> {short(self._stage.image)}\n")
        self._finish(names)
        if self._stage is None:
            raise InvalidParameter("No build stage in current context")
        if not self._stage.image:
            raise InvalidParameter("No image was generated. Is your Dockerfile empty?")
        self._warn_unused()
        return self._stage

    def _finish(self, names: Sequence[str]) -> None:
        if self._stage is not None:
            self._stages |= dict.fromkeys(names, self._stage)

    def _warn_unused(self) -> None:
        if unused := sorted(set(self._options.arguments) - self._used - PROXIES):
            self._means.say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")

    # FROM and ARG

    def _argument_before(self, instruction: Instruction) -> None:
        if instruction.keyword != "ARG":
            raise InvalidParameter("No build stage in current context")
        for word in instruction.arguments:
            name, value = self._argument(expand(word, self._global, self._escape))
            if value is not None:
                self._global[name] = value

    def _argument(self, word: str) -> tuple[str, str | None]:
        """An ARG's name and its value: the client's, else its own."""
        name, equals, default = word.partition("=")
        if not name:
            raise InvalidParameter("ARG names can not be blank")
        self._used.add(name)
        given = self._options.arguments.get(name)
        return name, given if given is not None else default if equals else None

    async def _from(self, instruction: Instruction) -> None:
        name = expand(instruction.arguments[0], self._global, self._escape)
        if not name:
            raise InvalidParameter(f"base name ({instruction.arguments[0]}) should not be blank")
        self._cached = not self._options.no_cache
        proxies = {name: value for name, value in self._options.arguments.items() if name in PROXIES and value is not None}
        self._stage = replace(await self._based_on(name), arguments=proxies, has_cmd=False)
        triggers = self._stage.config.config.on_build
        if triggers:
            self._means.say(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n")
            self._stage = self._stage.with_config(on_build=())
            for trigger in triggers:
                await self._step(parse_instruction(trigger, instruction.line), self._stage)

    async def _based_on(self, name: str) -> Stage:
        if (stage := self._stages.get(name.lower())) is not None:
            return stage
        if name == SCRATCH:
            platform = ImageConfig(architecture=host_platform().architecture, config=BASE.config.config)
            return replace(BASE, config=platform)
        return self._of_image(await self._means.base(name))

    def _of_image(self, image_id: str) -> Stage:
        image = self._means.images.find(image_id)
        blobs = self._means.images.manifest_of(image.id).layers
        stage = Stage(image.id, image.layer, image.config, blobs)
        return stage if image.config.config.env else stage.with_config(env=BASE.config.config.env)

    # Steps

    async def _step(self, instruction: Instruction, stage: Stage) -> None:
        words = expanded(instruction, stage, self._escape)
        if instruction.keyword == "ARG":
            stage = self._declared(words, stage)
            self._stage = await self._configured(stage, f"{' '.join(DEFAULT_SHELL)} #(nop)  ARG {' '.join(words)}")
        elif instruction.keyword == "RUN":
            self._stage = await self._run(instruction, stage)
        elif instruction.keyword in ("ADD", "COPY"):
            self._stage = await self._copy(instruction, words, stage)
        elif instruction.keyword in CONFIG_ONLY:
            if instruction.keyword == "WORKDIR":
                self._stage = await self._workdir(words, apply(instruction, words, stage), stage)
            else:
                self._stage = await self._configured(apply(instruction, words, stage), described(instruction, words, stage))
        else:
            raise InvalidParameter(f"dockerfile parse error line {instruction.line}: unknown instruction: {instruction.keyword}")

    def _declared(self, words: Sequence[str], stage: Stage) -> Stage:
        arguments = dict(stage.arguments)
        for word in words:
            name, value = self._argument(word)
            value = self._global.get(name) if value is None else value
            if value is not None:
                arguments[name] = value
        return replace(stage, arguments=arguments)

    async def _configured(self, stage: Stage, created_by: str) -> Stage:
        """A step that changes the config alone."""
        return await self._made(stage, created_by, step_key(stage.image, created_by), None)

    async def _workdir(self, words: Sequence[str], changed: Stage, stage: Stage) -> Stage:
        path = workdir(words[0], stage)
        created_by = f"{' '.join(DEFAULT_SHELL)} #(nop) WORKDIR {path}"
        key = step_key(stage.image, created_by)
        if (found := self._found(key, changed)) is not None:
            return found
        committed = await self._means.copying.directory(path, stage.layer)
        return await self._made(changed, created_by, key, committed)

    async def _run(self, instruction: Instruction, stage: Stage) -> Stage:
        for flag, value in instruction.flags:
            raise InvalidParameter(
                f"the --{flag} option of RUN ({value or 'no value'}) requires BuildKit, which this engine has not"
            )
        stage = stage if stage.image else await self._configured(stage, f"{' '.join(DEFAULT_SHELL)} #(nop)  FROM {SCRATCH}")
        argv = command(instruction, stage)
        visible = {name: value for name, value in stage.arguments.items() if name not in environment(stage.config.config.env)}
        told = tuple(f"{name}={value}" for name, value in sorted(visible.items()) if name not in PROXIES)
        shown = " ".join(argv)
        created_by = f"|{len(told)} {' '.join(told)} {shown}" if told else shown
        key = step_key(stage.image, "RUN", *argv, "", *told)
        if (found := self._found(key, stage)) is not None:
            return found
        env = (*(f"{name}={value}" for name, value in visible.items()), *stage.config.config.env)
        run = Run(
            image=stage.image,
            parent=stage.layer,
            argv=argv,
            env=env,
            working_dir=stage.config.config.working_dir,
            user=stage.config.config.user,
            host=self._options.host,
            shown=shown,
        )
        keep, keep_failed = not self._options.remove, not self._options.force_remove
        return await self._made(stage, created_by, key, await self._means.runner.run(run, keep=keep, keep_failed=keep_failed))

    async def _copy(self, instruction: Instruction, words: Sequence[str], stage: Stage) -> Stage:
        source = instruction.flag("from")
        layer = await self._layer_of(expand(source, stage.variables, self._escape)) if source else None
        copy = Copy(
            add=instruction.keyword == "ADD",
            sources=tuple(words[:-1]),
            target=words[-1],
            workdir=stage.config.config.working_dir or "/",
            owner=expand(instruction.flag("chown"), stage.variables, self._escape),
            mode=expand(instruction.flag("chmod"), stage.variables, self._escape),
            from_layer=layer,
            texts=tuple(
                (document.name, expand(document.content, stage.variables, self._escape) if document.expand else document.content)
                for document in instruction.heredocs
            ),
        )
        async with self._means.copying.prepared(copy) as prepared:
            created_by = f"{' '.join(DEFAULT_SHELL)} #(nop) {instruction.keyword} {prepared.described} "
            key = step_key(stage.image, created_by, copy.owner, copy.mode)
            if (found := self._found(key, stage)) is not None:
                return found
            return await self._made(stage, created_by, key, await prepared.copy(stage.layer))

    async def _layer_of(self, name: str) -> str:
        """The chain id of what --from names: a stage by name or number, or an image."""
        if (stage := self._stages.get(name.lower())) is not None:
            return stage.layer
        if name.isdecimal():
            raise InvalidParameter(f"invalid from flag value {name}: refers to a stage that is not built yet")
        return self._of_image(await self._means.base(name)).layer

    # Images

    def _found(self, key: str, stage: Stage) -> Stage | None:
        """The stage after a step that was done before."""
        if not self._cached:
            return None
        image_id = self._means.cache.find(key, self._is_there)
        if image_id is None:
            self._cached = False
            return None
        self._means.say(" ---> Using cache\n")
        return replace(self._of_image(image_id), arguments=stage.arguments, has_cmd=stage.has_cmd)

    def _is_there(self, image_id: str) -> bool:
        try:
            self._means.images.find(image_id)
        except NotFound:
            return False
        return True

    async def _made(self, stage: Stage, created_by: str, key: str, committed: Committed | None) -> Stage:
        """The image after a step; `committed`: the layer that it added."""
        if committed is None and (found := self._found(key, stage)) is not None:
            return found
        config, blobs = stage.config, stage.blobs
        step = History(created=now(), created_by=created_by, empty_layer=committed is None)
        config = structs.replace(config, created=step.created, history=(*config.history, step))
        if committed is not None:
            config = structs.replace(
                config, rootfs=structs.replace(config.rootfs, diff_ids=(*config.rootfs.diff_ids, committed.diff_id))
            )
            blobs = (*blobs, Descriptor(media_type=OCI_LAYER, digest=committed.blob_digest, size=committed.size))
        image = await asyncio.to_thread(self._means.images.add, encode_config(config), None, blobs, None, stage.image)
        self._means.cache.remember(key, image.id)
        return replace(stage, image=image.id, layer=image.layer, config=image.config, blobs=blobs)


def command(instruction: Instruction, stage: Stage) -> tuple[str, ...]:
    """The argv of a RUN; a here-document is its script, or the standard input of what stands before it."""
    if instruction.exec_form:
        return instruction.arguments
    text = instruction.arguments[0] if instruction.arguments else ""
    documents = instruction.heredocs
    if len(documents) == 1 and text.startswith("<<") and len(text.split()) == 1:
        return (*stage.shell, documents[0].content)
    return (*stage.shell, text + "".join(f"\n{document.content}{document.name}" for document in documents))


def alias(instruction: Instruction) -> list[str]:
    """The name that FROM gives its stage; raises InvalidParameter."""
    words = instruction.arguments
    if len(words) == 1:
        return []
    if len(words) != 3 or words[1].upper() != "AS":
        raise InvalidParameter(f"dockerfile parse error line {instruction.line}: FROM requires either one or three arguments")
    return [words[2].lower()]


def targeted(instructions: Sequence[Instruction], target: str) -> tuple[Instruction, ...]:
    """The instructions up to the end of the target stage; raises InvalidParameter when there is none of that name or number."""
    if not target:
        return tuple(instructions)
    stage = -1
    begun = False
    for place, instruction in enumerate(instructions):
        if instruction.keyword != "FROM":
            continue
        if begun:
            return tuple(instructions[:place])
        stage += 1
        begun = target.lower() in (str(stage), *alias(instruction))
    if not begun:
        raise InvalidParameter(f"failed to reach build target {target} in Dockerfile")
    return tuple(instructions)


def with_labels(instructions: Sequence[Instruction], labels: Mapping[str, str]) -> tuple[Instruction, ...]:
    """The client's --label as one more instruction at the end."""
    if not labels:
        return tuple(instructions)
    text = "LABEL " + " ".join(f"{name}={quoted(value)}" for name, value in sorted(labels.items()))
    return (*instructions, parse_instruction(text, instructions[-1].line + 1))


def quoted(text: str) -> str:
    """A value that expands to itself."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def short(image_id: str) -> str:
    """The twelve digits that people are shown."""
    return image_id.removeprefix("sha256:")[:12]
