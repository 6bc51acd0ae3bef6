"""CNI spec 1.1.0 sections 2 and 3, the runtime's side: real executables, which write down what they are told."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni.cache import Attachment, Cached, CacheError, ResultCache
from cni.chain import Chain, in_version, make_request
from cni.conflist import parse_conflist
from cni.invoke import Executables, PluginError
from cni.ledger import Key
from cni.spec import CniError, Code
from recording_plugins import RecordingPlugins, conflist_text, recording_plugins

POD = Attachment("c1", "/run/netns/c1", args={"A": "1", "B": "2"})
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
INTERFACES = [{"name": "one"}, {"name": "two"}, {"name": "three"}]


@pytest.fixture
def plugins(tmp_path: Path) -> RecordingPlugins:
    return recording_plugins(tmp_path / "bin", "one", "two", "three")


@pytest.fixture
def chain(plugins: RecordingPlugins, tmp_path: Path) -> Chain:
    return make_chain(plugins, tmp_path)


def make_chain(plugins: RecordingPlugins, tmp_path: Path, *listed: Mapping[str, Any] | str, **keys: Any) -> Chain:
    network = parse_conflist(conflist_text(*(listed or ("one", "two", "three")), **keys).encode())
    path = ("/nowhere", str(plugins.directory))
    return Chain(network, Executables(path, timeout_s=20), ResultCache(tmp_path / "cache"))


def cached(chain: Chain, attachment: Attachment = POD) -> Cached | None:
    return chain.cache.read(attachment.key("net"))


def edited(chain: Chain, version: str) -> Chain:
    return replace(chain, network=replace(chain.network, version=version))


# ADD


def test_add_goes_forward_and_each_is_told_the_result_before(chain: Chain, plugins: RecordingPlugins) -> None:
    result = chain.add(POD)
    one, two, three = plugins.calls()
    assert [told.plugin for told in (one, two, three)] == ["one", "two", "three"]
    assert "prevResult" not in one.stdin
    assert two.stdin["prevResult"]["interfaces"] == INTERFACES[:1]
    assert three.stdin["prevResult"]["interfaces"] == INTERFACES[:2]
    assert result["interfaces"] == INTERFACES


def test_a_plugin_gets_the_whole_environment_and_the_attachment(
    chain: Chain, plugins: RecordingPlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING_OF_THE_RUNTIME", "yes")
    monkeypatch.setenv("CNI_ARGS", "of=another")
    monkeypatch.setenv("CNI_NETNS", "/of/another")
    chain.add(POD)
    environ = plugins.calls()[0].environ
    assert environ["SOMETHING_OF_THE_RUNTIME"] == "yes"
    told = {name: value for name, value in environ.items() if name.startswith("CNI_")}
    assert told == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "A=1;B=2",
        "CNI_PATH": f"/nowhere:{plugins.directory}",
    }


def test_an_environment_of_ones_own_replaces_the_process_ones(
    chain: Chain, plugins: RecordingPlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING_OF_THE_RUNTIME", "yes")
    replace(chain, executables=replace(chain.executables, environment={"X": "1"})).add(POD)
    environ = plugins.calls()[0].environ
    assert environ["X"] == "1"
    assert "SOMETHING_OF_THE_RUNTIME" not in environ


def test_a_request_is_the_conf_with_name_version_and_the_capabilities_that_are_declared_and_supplied() -> None:
    declared = {"type": "one", "mtu": 1400, "capabilities": {"portMappings": True, "ips": False, "bandwidth": True}}
    network = parse_conflist(conflist_text(declared, version="1.0.0").encode())
    pod = replace(POD, capabilities={"portMappings": PORTS, "ips": ["10.0.0.1"], "dns": {}})
    assert make_request(network, network.plugins[0], pod) == declared | {
        "name": "net",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"portMappings": PORTS},
    }


def test_a_result_that_does_not_say_its_version_is_of_the_networks(plugins: RecordingPlugins, tmp_path: Path) -> None:
    plugins.answer("one ADD", stdout='{"ips": [{"address": "10.1.2.3/24"}]}')
    result = make_chain(plugins, tmp_path, "one").add(POD)
    assert result == {"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24"}]}


def test_a_result_in_another_version_is_converted(plugins: RecordingPlugins, tmp_path: Path) -> None:
    plugins.answer("one ADD", stdout='{"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24"}}')
    result = make_chain(plugins, tmp_path, "one").add(POD)
    assert result["ips"] == [{"address": "10.1.2.3/24"}]


def test_what_we_do_not_know_in_a_result_is_passed_on() -> None:
    result = {"cniVersion": "1.1.0", "ips": [], "x-vendor": {"a": 1}}
    assert in_version(result, "1.1.0") == result


def test_a_good_add_is_remembered_with_all_that_it_takes_to_undo_it(chain: Chain) -> None:
    pod = replace(POD, capabilities={"portMappings": PORTS})
    result = chain.add(pod)
    assert cached(chain) == Cached("net", pod, chain.network.raw, result)


def test_a_failed_add_deletes_what_was_begun_and_raises_its_own_error(chain: Chain, plugins: RecordingPlugins) -> None:
    plugins.fail("two ADD", 11, "try later", "busy")
    plugins.fail("two DEL", 7, "no matter")
    with pytest.raises(PluginError) as caught:
        chain.add(POD)
    assert str(caught.value) == "plugin two failed (ADD): try later; busy (code 11)"
    assert (caught.value.code, caught.value.message, caught.value.details) == (11, "try later", "busy")
    assert (caught.value.plugin, caught.value.command) == ("two", "ADD")
    calls = plugins.calls()
    assert [f"{told.plugin} {told.command}" for told in calls] == ["one ADD", "two ADD", "two DEL", "one DEL"]
    assert calls[-1].stdin["prevResult"]["interfaces"] == INTERFACES[:1]
    assert cached(chain) is None


def test_a_second_add_that_fails_leaves_the_first_ones_attachment(chain: Chain, plugins: RecordingPlugins) -> None:
    chain.add(POD)
    plugins.fail("one ADD", 999, "eth0 already exists")
    plugins.calls()
    with pytest.raises(PluginError, match="already exists"):
        chain.add(POD)
    assert plugins.said() == ["one ADD"]
    assert cached(chain) is not None


def test_an_add_that_cannot_be_remembered_is_undone(chain: Chain, plugins: RecordingPlugins) -> None:
    broken = replace(chain, cache=ResultCache(Path("/proc/self/cache")))
    with pytest.raises(CacheError):
        broken.add(POD)
    assert plugins.said() == ["one ADD", "two ADD", "three ADD", "three DEL", "two DEL", "one DEL"]


@pytest.mark.parametrize(
    "pod", [Attachment("", "/n"), Attachment("a/b", "/n"), Attachment("c1", ""), Attachment("c1", "/n", "a b")]
)
def test_what_no_plugin_could_use_is_refused_before_any_is_called(pod: Attachment, chain: Chain, plugins: RecordingPlugins) -> None:
    with pytest.raises(CniError) as caught:
        chain.add(pod)
    assert caught.value.code == Code.ENVIRONMENT
    assert plugins.said() == []


# How plugins fail


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"stdout": "panic: oh"}, "it printed 'panic: oh', expected a JSON object (code 6)"),
        ({"stdout": "x" * 5000}, f"it printed '{'x' * 300}...', expected a JSON object (code 6)"),
        ({"stdout": ""}, "it printed '', expected a JSON object (code 6)"),
        ({"stdout": '{"ips": [{"address": "nonsense"}]}'}, "its result cannot be decoded; 'nonsense' does not appear"),
        ({"stdout": "oops", "exit": 3}, "exit code 3, and it printed 'oops' (code 100)"),
        ({"stdout": "", "stderr": "no\n such file\n", "exit": 2}, "exit code 2, and it printed no error; no such file (code 100)"),
        ({"stdout": '{"code": 7, "msg": "bad\\nconf"}', "stderr": "bad conf", "exit": 1}, "(ADD): bad conf (code 7)"),
    ],
)
def test_an_error_names_the_plugin_and_shows_what_it_said(
    answer: dict[str, Any], expected: str, plugins: RecordingPlugins, tmp_path: Path
) -> None:
    plugins.answer("one ADD", **answer)
    with pytest.raises(PluginError) as caught:
        make_chain(plugins, tmp_path, "one").add(POD)
    assert str(caught.value).startswith("plugin one failed (ADD): ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert plugins.said() == ["one ADD", "one DEL"]


def test_a_plugin_that_was_killed_is_told_so(plugins: RecordingPlugins, tmp_path: Path) -> None:
    (plugins.directory / "one").write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(PluginError, match="killed by SIGKILL, and it printed no error"):
        make_chain(plugins, tmp_path, "one").status()


def test_a_plugin_that_is_not_there_or_cannot_be_run_is_an_error_with_its_path(plugins: RecordingPlugins, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=rf"there is no four in /nowhere:{plugins.directory}"):
        make_chain(plugins, tmp_path, "four").status()
    (plugins.directory / "one").chmod(0o644)
    with pytest.raises(PluginError, match=r"/bin/one cannot be run: Permission denied"):
        make_chain(plugins, tmp_path, "one").status()


def test_a_plugin_that_is_being_installed_is_waited_for(plugins: RecordingPlugins, tmp_path: Path) -> None:
    """ETXTBSY."""
    writing = os.open(plugins.directory / "one", os.O_WRONLY)
    closer = threading.Timer(0.2, os.close, (writing,))
    closer.start()
    started = time.monotonic()
    make_chain(plugins, tmp_path, "one").status()
    closer.join()
    assert time.monotonic() - started >= 0.15
    assert plugins.said() == ["one STATUS"]


def test_a_plugin_that_does_not_answer_is_killed_with_its_children(plugins: RecordingPlugins, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    (plugins.directory / "one").write_text(f"#!/bin/sh\nsleep 60 &\necho $$ $! > {pids}\necho hello >&2\nwait\n")
    chain = make_chain(plugins, tmp_path, "one")
    hasty = replace(chain, executables=replace(chain.executables, timeout_s=0.3))
    with pytest.raises(PluginError, match=r"plugin one failed \(STATUS\): no answer in 0.3 s, so it was killed; hello"):
        hasty.status()
    for pid in pids.read_text().split():
        deadline = time.monotonic() + 5
        while is_running(int(pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_running(int(pid))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_good_plugin_says_beside_is_logged(
    plugins: RecordingPlugins, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugins.answer("one STATUS", stderr="ipMasqBackend is deprecated\n")
    with caplog.at_level("INFO"):
        make_chain(plugins, tmp_path, "one").status()
    (record,) = caplog.records
    assert record.getMessage() == "plugin said"
    assert record.facts["text"] == "ipMasqBackend is deprecated"  # type: ignore[attr-defined]  # flanneld.log's


# DEL


def test_del_goes_backward_with_the_result_of_add_and_is_then_forgotten(chain: Chain, plugins: RecordingPlugins) -> None:
    result = chain.add(POD)
    plugins.calls()
    chain.delete(POD)
    calls = plugins.calls()
    assert [told.plugin for told in calls] == ["three", "two", "one"]
    assert [told.stdin["prevResult"] for told in calls] == [result] * 3
    assert cached(chain) is None


def test_del_again_and_without_a_namespace_succeeds_without_a_result(chain: Chain, plugins: RecordingPlugins) -> None:
    chain.delete(replace(POD, netns=""))
    calls = plugins.calls()
    assert [told.plugin for told in calls] == ["three", "two", "one"]
    assert calls[0].environ["CNI_NETNS"] == ""
    assert "prevResult" not in calls[0].stdin


def test_del_stops_at_an_error_and_can_be_repeated_with_the_result(chain: Chain, plugins: RecordingPlugins) -> None:
    result = chain.add(POD)
    plugins.fail("two DEL", 11)
    plugins.calls()
    with pytest.raises(PluginError):
        chain.delete(POD)
    assert plugins.said() == ["three DEL", "two DEL"]
    plugins.answer("two DEL")
    chain.delete(POD)
    assert [told.stdin["prevResult"] for told in plugins.calls()] == [result] * 3


def test_before_0_4_0_del_gets_no_result_and_still_forgets(plugins: RecordingPlugins, tmp_path: Path) -> None:
    chain = make_chain(plugins, tmp_path, "one", version="0.3.1")
    chain.add(POD)
    chain.delete(POD)
    assert "prevResult" not in plugins.calls()[-1].stdin
    assert cached(chain) is None


def test_a_result_of_when_the_network_had_another_version_is_converted(chain: Chain, plugins: RecordingPlugins) -> None:
    chain.cache.write(Cached("net", POD, b"", {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.2.3/24"}]}))
    chain.delete(POD)
    told = plugins.calls()[0].stdin["prevResult"]
    assert (told["cniVersion"], told["ips"]) == ("1.1.0", [{"address": "10.1.2.3/24"}])


def test_a_result_that_is_garbage_does_not_keep_a_pod_from_going(chain: Chain, plugins: RecordingPlugins) -> None:
    chain.cache.write(Cached("net", POD, b"", {"cniVersion": "1.1.0", "ips": "many"}))
    chain.delete(POD)
    assert "prevResult" not in plugins.calls()[0].stdin
    assert cached(chain) is None


# CHECK


def test_check_goes_forward_with_the_same_result_for_each(chain: Chain, plugins: RecordingPlugins) -> None:
    result = chain.add(POD)
    plugins.calls()
    chain.check(POD)
    calls = plugins.calls()
    assert [f"{told.plugin} {told.command}" for told in calls] == ["one CHECK", "two CHECK", "three CHECK"]
    assert [told.stdin["prevResult"] for told in calls] == [result] * 3


def test_check_stops_at_the_first_error(chain: Chain, plugins: RecordingPlugins) -> None:
    chain.add(POD)
    plugins.calls()
    plugins.fail("two CHECK", 100, "the address is gone")
    with pytest.raises(PluginError, match="the address is gone"):
        chain.check(POD)
    assert plugins.said() == ["one CHECK", "two CHECK"]


def test_check_is_refused_before_0_4_0_and_without_an_add(chain: Chain, plugins: RecordingPlugins) -> None:
    with pytest.raises(CniError, match="config version does not allow CHECK"):
        edited(chain, "0.3.1").check(POD)
    with pytest.raises(CniError, match="no result of net/c1/eth0") as caught:
        chain.check(POD)
    assert caught.value.code == Code.UNKNOWN_CONTAINER
    assert plugins.said() == []


def test_disable_check_is_obeyed(plugins: RecordingPlugins, tmp_path: Path) -> None:
    make_chain(plugins, tmp_path, disableCheck=True).check(POD)
    assert plugins.said() == []


# GC


def test_gc_detaches_what_is_not_kept_then_tells_the_plugins_what_is(chain: Chain, plugins: RecordingPlugins) -> None:
    for container_id in ("keep", "old", "older"):
        chain.add(replace(POD, container_id=container_id))
    chain.cache.write(Cached("other", POD, b"", None))
    plugins.calls()
    kept = Key("net", "keep", "eth0")
    assert chain.gc({kept, Key("other", "c1", "eth0")}) == [Key("net", "old", "eth0"), Key("net", "older", "eth0")]
    calls = plugins.calls()
    assert [f"{told.plugin} {told.command}" for told in calls[:3]] == ["three DEL", "two DEL", "one DEL"]
    assert (calls[0].environ["CNI_CONTAINERID"], calls[0].environ["CNI_ARGS"]) == ("old", "A=1;B=2")
    assert [f"{told.plugin} {told.command}" for told in calls[6:]] == ["one GC", "two GC", "three GC"]
    for name in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        assert calls[-1].stdin[name] == [{"containerID": "keep", "ifname": "eth0"}]
    assert calls[-1].environ["CNI_CONTAINERID"] == ""
    assert [each.key for each in chain.cache.attachments("net")] == [kept]


def test_gc_goes_on_after_errors_and_tells_all(chain: Chain, plugins: RecordingPlugins) -> None:
    chain.add(POD)
    plugins.fail("three DEL", 11, "busy")
    plugins.fail("one GC", 100, "odd")
    with pytest.raises(CniError, match=r"plugin three failed \(DEL\): busy .*; plugin one failed \(GC\): odd") as caught:
        chain.gc(())
    assert caught.value.code == 11
    assert plugins.said()[-3:] == ["one GC", "two GC", "three GC"]


def test_before_1_1_0_gc_only_detaches(chain: Chain, plugins: RecordingPlugins) -> None:
    chain.add(POD)
    plugins.calls()
    edited(chain, "1.0.0").gc(())
    assert plugins.said() == ["three DEL", "two DEL", "one DEL"]


def test_disable_gc_is_obeyed(plugins: RecordingPlugins, tmp_path: Path) -> None:
    chain = make_chain(plugins, tmp_path, disableGC=True)
    chain.add(POD)
    plugins.calls()
    assert chain.gc(()) == []
    assert plugins.said() == []
    assert cached(chain) is not None


# STATUS, VERSION


def test_status_is_asked_in_order_until_one_is_not_ready(chain: Chain, plugins: RecordingPlugins) -> None:
    plugins.fail("two STATUS", 50, "no subnet yet")
    with pytest.raises(PluginError) as caught:
        chain.status()
    assert caught.value.code == Code.NOT_AVAILABLE
    calls = plugins.calls()
    assert [f"{told.plugin} {told.command}" for told in calls] == ["one STATUS", "two STATUS"]
    assert calls[0].stdin == {"type": "one", "name": "net", "cniVersion": "1.1.0"}


def test_before_1_1_0_nobody_is_asked_for_status(chain: Chain, plugins: RecordingPlugins) -> None:
    edited(chain, "1.0.0").status()
    assert plugins.said() == []


def test_validate_is_content_when_all_speak_the_version_and_names_the_capabilities(
    plugins: RecordingPlugins, tmp_path: Path
) -> None:
    listed = ({"type": "one", "capabilities": {"ips": True}}, {"type": "two", "capabilities": {"mac": True, "dns": False}})
    chain = make_chain(plugins, tmp_path, *listed)
    assert chain.validate() == {"ips", "mac"}
    assert chain.versions()["one"] == ("0.3.1", "0.4.0", "1.0.0", "1.1.0")


def test_validate_names_the_plugin_that_does_not_speak_it(chain: Chain, plugins: RecordingPlugins) -> None:
    plugins.answer("two VERSION", stdout='{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}')
    with pytest.raises(PluginError, match=r"plugin two .*network net is '1\.1\.0', expected one of 1\.0\.0") as caught:
        chain.validate()
    assert caught.value.code == Code.VERSION


def test_a_plugin_that_does_not_know_version_is_of_the_oldest(chain: Chain, plugins: RecordingPlugins) -> None:
    plugins.fail("one VERSION", 100, "unknown CNI_COMMAND: VERSION")
    assert chain.versions()["one"] == ("0.1.0",)


def test_versions_that_are_garbage_are_an_error(chain: Chain, plugins: RecordingPlugins) -> None:
    plugins.answer("one VERSION", stdout='{"supportedVersions": "all"}')
    with pytest.raises(PluginError, match='its supportedVersions are "all"'):
        chain.versions()


# Side by side


def test_containers_are_attached_and_detached_side_by_side(chain: Chain, plugins: RecordingPlugins) -> None:
    pods = [replace(POD, container_id=f"c{number}") for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(chain.add, pods))
        assert len(chain.cache.attachments("net")) == 8
        list(threads.map(chain.delete, pods))
    assert all(result["interfaces"] == INTERFACES for result in results)
    assert chain.cache.attachments("net") == []
    assert len(plugins.calls()) == 48
