from __future__ import annotations

import pytest

from runtime.build.dockerfile import parse_instruction
from runtime.build.stage import BASE, Stage, apply, described, expanded
from runtime.config import ContainerConfig, Healthcheck
from runtime.errors import InvalidParameter
from runtime.images.image import ImageConfig


def stage_after(*lines: str, **config: object) -> Stage:
    stage = Stage(config=ImageConfig(config=ContainerConfig(**config)))  # type: ignore[arg-type]  # any field, by its name
    for line in lines:
        instruction = parse_instruction(line)
        stage = apply(instruction, expanded(instruction, stage, "\\"), stage)
    return stage


def config_after(*lines: str, **config: object) -> ContainerConfig:
    return stage_after(*lines, **config).config.config


def test_variables_of_a_line_are_those_of_the_lines_before() -> None:
    assert config_after("ENV abc=hello", "ENV abc=bye def=$abc", "ENV ghi=$abc").env == ("abc=bye", "def=hello", "ghi=bye")


def test_a_variable_keeps_its_place() -> None:
    assert config_after("ENV B=2", env=("A=1", "B=1", "C=1")).env == ("A=1", "B=2", "C=1")


def test_working_directories_add_up() -> None:
    assert config_after("WORKDIR /a", "WORKDIR b", "WORKDIR ../c").working_dir == "/a/c"
    assert config_after("ENV D=x", "WORKDIR /p/$D").working_dir == "/p/x"


def test_an_entrypoint_takes_the_bases_command_away_but_not_its_own_stages() -> None:
    assert config_after('ENTRYPOINT ["a"]', cmd=("of the base",)).cmd == ()
    assert config_after("CMD b", 'ENTRYPOINT ["a"]').cmd == ("/bin/sh", "-c", "b")


def test_shell_forms_run_in_the_shell_of_the_moment() -> None:
    config = config_after('SHELL ["/bin/bash", "-ec"]', "CMD echo $HOME", "ENTRYPOINT top")
    assert (config.cmd, config.entrypoint) == (("/bin/bash", "-ec", "echo $HOME"), ("/bin/bash", "-ec", "top"))


def test_ports_are_ranges_with_protocols() -> None:
    assert list(config_after("ENV P=90", "EXPOSE 80 53/UDP $P 8000-8002/tcp").exposed_ports) == [
        *("80/tcp", "53/udp", "90/tcp", "8000/tcp", "8001/tcp", "8002/tcp")
    ]


def test_a_health_check_has_its_times_in_nanoseconds() -> None:
    check = config_after("HEALTHCHECK --interval=1m30s --timeout=500ms --retries=2 --start-period=5s CMD curl -f x").healthcheck
    assert check == Healthcheck(
        test=("CMD-SHELL", "curl -f x"), interval=90_000_000_000, timeout=500_000_000, retries=2, start_period=5_000_000_000
    )
    assert config_after("HEALTHCHECK NONE").healthcheck == Healthcheck(test=("NONE",))


def test_labels_users_volumes_signals_and_triggers_are_set() -> None:
    config = config_after(
        "LABEL a=1 b='two words'", "USER me:us", 'VOLUME ["/a b", "/c"]', "STOPSIGNAL SIGINT", "ONBUILD RUN ls $x"
    )
    assert config.labels == {"a": "1", "b": "two words"}
    assert (config.user, list(config.volumes), config.stop_signal, config.on_build) == (
        "me:us",
        ["/a b", "/c"],
        "SIGINT",
        ("RUN ls $x",),
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("EXPOSE 0", "invalid containerPort: 0"),
        ("EXPOSE 80/xyz", "invalid containerPort: 80/xyz"),
        ("EXPOSE 90-80", "invalid containerPort: 90-80"),
        ("ONBUILD ONBUILD RUN ls", "ONBUILD ONBUILD"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK CMD", "Missing command"),
        ("HEALTHCHECK --interval=5 CMD x", 'invalid duration "5"'),
        ("HEALTHCHECK RUN x", "Unknown type"),
        ("HEALTHCHECK --interval=1us CMD x", "cannot be less than 1ms"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        config_after(line)


def test_history_says_what_docker_says() -> None:
    instruction = parse_instruction('CMD ["a", "b"]')
    assert described(instruction, instruction.arguments, BASE) == '/bin/sh -c #(nop)  CMD ["a", "b"]'
    instruction = parse_instruction("ENV a=1 b=2")
    assert described(instruction, instruction.arguments, BASE) == "/bin/sh -c #(nop)  ENV a=1 b=2"
