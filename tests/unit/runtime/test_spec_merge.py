"""A request on top of an image, as Docker merges them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.config import ContainerConfig, Healthcheck, HostConfig
from runtime.containers.defaults import settle
from runtime.containers.merge import command, merge
from runtime.errors import InvalidParameter
from runtime.linux.controllers import controllers

IMAGE = ContainerConfig(entrypoint=("/entry",), cmd=("a", "b"), env=("PATH=/bin", "X=image"), labels={"l": "image", "m": "image"})


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "words"),
    [
        ((), (), ("/entry", "a", "b")),
        ((), ("c",), ("/entry", "c")),
        (("/mine",), (), ("/mine",)),
        (("/mine", "-x"), ("c",), ("/mine", "-x", "c")),
        (("",), ("c",), ("c",)),
    ],
)
def test_an_entrypoint_takes_the_images_command_away(
    entrypoint: tuple[str, ...], cmd: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path, args = command(merge(ContainerConfig(entrypoint=entrypoint, cmd=cmd), IMAGE))
    assert (path, *args) == words


@pytest.mark.parametrize("image", [None, ContainerConfig(), IMAGE])
def test_no_command_at_all_is_refused(image: ContainerConfig | None) -> None:
    with pytest.raises(InvalidParameter, match="no command specified"):
        merge(ContainerConfig(entrypoint=("",)), image)


def test_variables_and_labels_of_the_request_outweigh_the_images() -> None:
    merged = merge(ContainerConfig(env=("X=mine", "Y"), labels={"l": "mine"}), IMAGE)
    assert merged.env == ("X=mine", "Y", "PATH=/bin")
    assert merged.labels == {"l": "mine", "m": "image"}


def test_a_health_check_is_completed_field_by_field() -> None:
    image = ContainerConfig(cmd=("x",), healthcheck=Healthcheck(test=("CMD", "probe"), interval=5, retries=2))
    merged = merge(ContainerConfig(healthcheck=Healthcheck(interval=7)), image)
    assert merged.healthcheck == Healthcheck(test=("CMD", "probe"), interval=7, retries=2)


def test_what_the_request_leaves_open_is_the_images() -> None:
    image = ContainerConfig(cmd=("x",), user="ann", working_dir="/w", stop_signal="SIGINT", stop_timeout=3)
    assert merge(ContainerConfig(), image) == image
    assert merge(ContainerConfig(user="bob", stop_timeout=0), image).user == "bob"
    assert merge(ContainerConfig(stop_timeout=0), image).stop_timeout == 0


words = st.lists(st.sampled_from(["a", "b", "PATH=x", "PATH=y", "X"]), max_size=3).map(tuple)


@given(env=words, image_env=words)
def test_no_variable_of_the_request_is_lost_and_merging_twice_is_merging_once(
    env: tuple[str, ...], image_env: tuple[str, ...]
) -> None:
    image = ContainerConfig(cmd=("x",), env=image_env)
    once = merge(ContainerConfig(env=env), image)
    assert once.env[: len(env)] == env
    assert merge(once, image) == once


def test_settings_are_kept_with_dockers_defaults_and_settling_twice_is_settling_once() -> None:
    settled = settle(HostConfig(memory=10 << 20, pids_limit=-1, memory_swappiness=-1, cpu_shares=1))
    assert settled.memory_swap == (20 << 20 if controllers().swap else 0)
    assert (settled.shm_size, settled.ipc_mode, settled.network_mode) == (64 << 20, "private", "bridge")
    assert (settled.pids_limit, settled.memory_swappiness, settled.cpu_shares) == (None, None, 2)
    assert settle(settled) == settled
