"""CNI spec 1.1.0 section 1: network configuration lists, and the single plugins of before."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.conflist import ConflistError, find_conflist, parse_conflist, read_conflist, read_directory
from cni.spec import OLDEST, VERSIONS, CniError
from recording_plugins import conflist_text


def write(directory: Path, name: str, text: str) -> Path:
    file = directory / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_a_list_is_its_plugins_in_order_with_the_capabilities_that_are_true(tmp_path: Path) -> None:
    portmap = {"type": "portmap", "capabilities": {"portMappings": True, "aliases": False}}
    network = read_conflist(write(tmp_path, "a.conflist", conflist_text("bridge", portmap)))
    assert (network.name, network.version) == ("net", "1.1.0")
    assert [plugin.type for plugin in network.plugins] == ["bridge", "portmap"]
    assert network.plugins[1].capabilities == {"portMappings"}
    assert network.plugins[1].values == portmap


def test_a_single_plugin_is_a_list_of_one(tmp_path: Path) -> None:
    conf = {"cniVersion": "0.3.1", "name": "lo", "type": "loopback"}
    network = read_conflist(write(tmp_path, "a.conf", json.dumps(conf)))
    assert (network.name, network.version, network.plugins[0].values) == ("lo", "0.3.1", conf)
    assert parse_conflist(network.raw) == network


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ({}, OLDEST),
        ({"cniVersion": "0.4.0"}, "0.4.0"),
        ({"cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.0.0"]}, "1.0.0"),
        ({"cniVersion": "1.1.0", "cniVersions": ["1.0.0"]}, "1.1.0"),
        ({"cniVersions": ["1.0.0", "7.0.0"]}, "1.0.0"),
        ({"cniVersion": "7.0.0", "cniVersions": ["0.3.0"]}, "0.3.0"),
    ],
)
def test_the_version_is_the_newest_that_both_speak(offered: dict[str, object], expected: str) -> None:
    text = json.dumps({"name": "net", "plugins": [{"type": "bridge"}]} | offered)
    assert parse_conflist(text.encode()).version == expected


@pytest.mark.parametrize("written", [True, "true", "True"])
def test_booleans_may_be_strings(written: object) -> None:
    network = parse_conflist(conflist_text("bridge", disableCheck=written, disableGC="false").encode())
    assert (network.disable_check, network.disable_gc) == (True, False)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "failed to decode"),
        ("[]", "got a list, expected an object"),
        (conflist_text("bridge", name="a/b"), 'name: got "a/b", expected letters'),
        ('{"cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}', 'name: got "", expected'),
        (conflist_text(), "plugins: got [], expected one plugin or more"),
        (conflist_text({"bridge": "cni0"}), 'plugins[0].type: got "", expected a plugin'),
        (conflist_text("bridge", "../bin/sh"), 'plugins[1].type: got "../bin/sh", expected'),
        (conflist_text({"type": "a", "capabilities": {"ips": 1}}), "plugins[0].capabilities.ips: got 1, expected true or false"),
        (conflist_text("bridge", version="7.0.0"), 'cniVersion: got "7.0.0", expected one of 0.1.0,'),
        (conflist_text("bridge", disableGC="perhaps"), 'disableGC: got "perhaps", expected true or false'),
    ],
)
def test_what_is_wrong_is_said_with_the_files_name_and_the_key(text: str, wrong: str, tmp_path: Path) -> None:
    file = write(tmp_path, "10-net.conflist", text)
    with pytest.raises(ConflistError) as caught:
        read_conflist(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert wrong in str(caught.value)


def test_plugins_in_the_folder_named_like_the_network_come_after_those_in_the_list(tmp_path: Path) -> None:
    write(tmp_path, "net/20.conf", '{"type": "tuning"}')
    write(tmp_path, "net/10.conf", '{"type": "portmap"}')
    write(tmp_path, "net/README", "no plugin")
    network = read_conflist(write(tmp_path, "a.conflist", conflist_text("bridge")))
    assert [plugin.type for plugin in network.plugins] == ["bridge", "portmap", "tuning"]
    assert parse_conflist(network.raw, tmp_path).plugins == network.plugins, "what is remembered is complete, and not doubled"


def test_the_folder_alone_may_have_the_plugins(tmp_path: Path) -> None:
    write(tmp_path, "net/10.conf", '{"type": "bridge"}')
    network = read_conflist(write(tmp_path, "a.conflist", '{"cniVersion": "1.1.0", "name": "net"}'))
    assert [plugin.type for plugin in network.plugins] == ["bridge"]


def test_load_only_inlined_plugins_leaves_the_folder_alone(tmp_path: Path) -> None:
    write(tmp_path, "net/10.conf", "garbage")
    network = read_conflist(write(tmp_path, "a.conflist", conflist_text("bridge", loadOnlyInlinedPlugins="true")))
    assert [plugin.type for plugin in network.plugins] == ["bridge"]


def test_an_error_in_the_folder_names_that_file(tmp_path: Path) -> None:
    broken = write(tmp_path, "net/10.conf", '{"name": "no type"}')
    with pytest.raises(ConflistError, match=rf"{broken}: type: got \"\""):
        read_conflist(write(tmp_path, "a.conflist", conflist_text("bridge")))


def test_the_default_network_is_the_lexically_first_that_makes_sense(tmp_path: Path) -> None:
    write(tmp_path, "05-broken.conflist", "{")
    write(tmp_path, "00-editor.conflist~", conflist_text("bridge", name="old"))
    write(tmp_path, "20-b.conflist", conflist_text("bridge", name="b"))
    write(tmp_path, "10-a.json", '{"cniVersion": "0.3.1", "name": "a", "type": "ptp"}')
    assert find_conflist(tmp_path).name == "a"
    assert find_conflist(tmp_path, "b").name == "b"
    networks, wrong = read_directory(tmp_path)
    assert [network.name for network in networks] == ["a", "b"]
    assert "05-broken.conflist" in str(wrong[0])


def test_a_network_that_is_not_there_is_told_with_what_is_there_and_what_is_broken(tmp_path: Path) -> None:
    write(tmp_path, "10.conflist", conflist_text("bridge", name="a"))
    write(tmp_path, "20.conflist", "{")
    with pytest.raises(ConflistError, match=r"no network 'b' in .*, which has a; .*20\.conflist: failed to decode"):
        find_conflist(tmp_path, "b")


def test_no_directory_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(ConflistError, match=r"no network in .*/nowhere$"):
        find_conflist(tmp_path / "nowhere")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConflistError, match=r"absent\.conflist: No such file"):
        read_conflist(tmp_path / "absent.conflist")


def network_of(value: object) -> bytes:
    return json.dumps({"name": "net", "cniVersion": "1.0.0", "plugins": value, "cniVersions": value}).encode()


KEYS = st.sampled_from(["type", "capabilities"]) | st.text()
SCALARS = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner))


@given(st.binary() | VALUES.map(network_of))
def test_any_bytes_are_a_network_or_an_error(data: bytes) -> None:
    with suppress(CniError):
        assert parse_conflist(data).version in VERSIONS
