from __future__ import annotations

import os
from ipaddress import ip_interface
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lab import LabError
from lab.lab import Lab
from lab.ping import Echo
from lab.pods import Pod
from lab.state import directory_of
from lab.topology import generate
from tartan.__main__ import tartan
from tartan.lab import _ping_table, _show


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
        (["exec", "h1", "--", "", "x"], "the first word is empty, expected a program's name"),
        (["pod", "--detach", "h1", "web"], "--detach needs a command"),
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


def test_a_ping_table_too_wide_for_the_terminal_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    ip = ip_interface("10.244.1.2/24")
    pods = [Pod("p1", (), {}, f"h{number}", (ip,)) for number in range(30)]
    _show(_ping_table([Echo(source, other, ip, 0.00004) for source in pods for other in pods if source != other]), whole=True)
    shown = capsys.readouterr().out
    assert shown.count("0.04 ms") == 30 * 29
    assert "p1@h29" in shown.splitlines()[1]


def test_a_labs_environment_has_nothing_of_the_machines_own_flanneld_and_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLANNELD_ETCD_PREFIX", "FLANNELD_ETCD_ENDPOINTS", "ETCD_NAME", "ETCDCTL_ENDPOINTS", "EDITOR"):
        monkeypatch.setenv(name, "mine")
    lab = Lab("x", Path("/nowhere"), generate(1))
    assert [name for name, value in lab.hosts[0].environment.items() if value == "mine"] == ["EDITOR"]
    assert lab.hosts[0].environment["FLANNELD_ETCD_ENDPOINTS"] == lab.etcd_url
