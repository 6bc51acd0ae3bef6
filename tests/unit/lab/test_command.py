from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lab import LabError
from lab.lab import Lab
from lab.state import directory_of
from lab.topology import generate
from tartan.__main__ import tartan


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(tartan, ["lab", *arguments])


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here gets as far as needing it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.parametrize("command", [["up"], ["status"], ["exec", "h1", "true"], ["pod", "h1", "web"], ["ping"], ["down"]])
def test_not_being_root_is_said_before_anything_is_done(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = invoke(*command).exception
    assert isinstance(error, LabError)
    assert "root" in str(error)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "Lab", "-x", "x" * 33])
def test_a_lab_name_cannot_lead_out_of_the_labs_directory(name: str) -> None:
    with pytest.raises(LabError, match="expected 1 to 32"):
        directory_of(name)


def test_a_lab_that_is_not_up_is_named() -> None:
    assert "lab 'nowhere' is not up" in str(invoke("status", "--name", "nowhere").exception)


def test_down_of_a_lab_that_is_not_up_succeeds() -> None:
    result = invoke("down", "--name", "nowhere")
    assert (result.exit_code, result.output) == (0, "lab 'nowhere' is not up\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--topology", "x.toml", "--hosts", "3"], "--hosts and --topology exclude each other"),
        (["up", "--topology", "x.toml", "--ipv6"], "--ipv6 and --topology exclude each other"),
        (["up", "--hosts", "many"], "'many' is not a valid integer"),
        (["down", "--all", "--name", "x"], "--all and --name exclude each other"),
    ],
)
def test_wrong_options_are_usage_errors(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_an_unknown_host_is_named_with_those_there_are() -> None:
    lab = Lab("x", Path("/nowhere"), generate(2))
    with pytest.raises(LabError, match="there is no host 'h9' in lab 'x', expected one of h1, h2"):
        lab.place("h9")
    assert lab.place("fabric") is lab.fabric
    assert lab.place("h2") is lab.hosts[1]
