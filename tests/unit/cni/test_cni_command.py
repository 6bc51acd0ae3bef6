"""`tartan cni`, with plugins that write down what they are told."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from cni.ledger import HeldAddress, HeldElement, HeldLink, Key, Ledger, Netns, Record, State
from recording_plugins import RecordingPlugins, conflist_text, recording_plugins
from tartan.__main__ import tartan

PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
NETWORK = conflist_text("one", {"type": "two", "capabilities": {"portMappings": True, "mac": True}})


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingPlugins:
    """In the variables that cnitool knows, with a network `net`."""
    for variable in ("CNI_ARGS", "CAP_ARGS", "CNI_IFNAME"):
        monkeypatch.delenv(variable, raising=False)
    conf_dir = tmp_path / "net.d"
    conf_dir.mkdir()
    (conf_dir / "10-net.conflist").write_text(NETWORK)
    monkeypatch.setenv("NETCONFPATH", str(conf_dir))
    monkeypatch.setenv("CNI_PATH", f"/nowhere:{tmp_path / 'bin'}")
    return recording_plugins(tmp_path / "bin", "one", "two")


def words(plugins: RecordingPlugins, *arguments: str) -> list[str]:
    return ["cni", arguments[0], "--cache-dir", str(plugins.directory.parent / "cache"), *arguments[1:]]


def invoke(plugins: RecordingPlugins, *arguments: str) -> Result:
    return CliRunner().invoke(tartan, words(plugins, *arguments))


def run(plugins: RecordingPlugins, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a process, for what main() makes of errors."""
    command = [sys.executable, "-m", "tartan", *words(plugins, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_add_prints_the_result_and_names_the_container_as_cnitool_does(plugins: RecordingPlugins) -> None:
    result = invoke(plugins, "add", "net", "/run/netns/pod")
    assert json.loads(result.stdout)["interfaces"] == [{"name": "one"}, {"name": "two"}]
    environ = plugins.calls()[0].environ
    assert environ["CNI_CONTAINERID"] == "cnitool-" + hashlib.sha512(b"/run/netns/pod").hexdigest()[:20]
    assert (environ["CNI_NETNS"], environ["CNI_IFNAME"]) == ("/run/netns/pod", "eth0")


def test_cnitools_variables_count(plugins: RecordingPlugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNI_ARGS", "A=1;B=2")
    monkeypatch.setenv("CNI_IFNAME", "net1")
    monkeypatch.setenv("CAP_ARGS", json.dumps({"portMappings": PORTS, "mac": "02:00:00:00:00:01"}))
    assert invoke(plugins, "add", "net", "/n", "--cap", 'mac="02:00:00:00:00:02"').exit_code == 0
    _, two = plugins.calls()
    assert (two.environ["CNI_ARGS"], two.environ["CNI_IFNAME"]) == ("A=1;B=2", "net1")
    assert two.stdin["runtimeConfig"] == {"portMappings": PORTS, "mac": "02:00:00:00:00:02"}


def test_options_win_over_variables(plugins: RecordingPlugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNI_IFNAME", "net1")
    assert invoke(plugins, "add", "net", "/n", "--ifname", "net2", "--id", "c1", "--args", "K=V").exit_code == 0
    environ = plugins.calls()[0].environ
    assert (environ["CNI_IFNAME"], environ["CNI_CONTAINERID"], environ["CNI_ARGS"]) == ("net2", "c1", "K=V")


def test_a_path_is_a_networks_file(plugins: RecordingPlugins, tmp_path: Path) -> None:
    file = tmp_path / "mine.conflist"
    file.write_text(conflist_text("two", name="mine"))
    assert invoke(plugins, "add", str(file), "/n").exit_code == 0
    assert plugins.calls()[0].stdin["name"] == "mine"


def test_del_and_check_remember_what_add_was_told(plugins: RecordingPlugins) -> None:
    cap = f"portMappings={json.dumps(PORTS)}"
    result = json.loads(invoke(plugins, "add", "net", "/n", "--cap", cap, "--args", "K=V").stdout)
    plugins.calls()
    assert invoke(plugins, "check", "net", "/n").exit_code == 0
    assert invoke(plugins, "del", "net", "/n").exit_code == 0
    calls = plugins.calls()
    assert [f"{told.plugin} {told.command}" for told in calls] == ["one CHECK", "two CHECK", "two DEL", "one DEL"]
    assert all(told.environ["CNI_ARGS"] == "K=V" and told.stdin["prevResult"] == result for told in calls)
    assert all(told.stdin["runtimeConfig"] == {"portMappings": PORTS} for told in calls if told.plugin == "two")


def test_del_works_when_the_networks_file_is_gone(plugins: RecordingPlugins, tmp_path: Path) -> None:
    invoke(plugins, "add", "net", "/n")
    (tmp_path / "net.d/10-net.conflist").unlink()
    plugins.calls()
    assert invoke(plugins, "del", "net", "/n").exit_code == 0
    assert plugins.said() == ["two DEL", "one DEL"]
    again = run(plugins, "del", "net", "/n")
    assert (again.returncode, again.stderr) == (1, f"tartan: no network 'net' in {tmp_path / 'net.d'}\n")


def test_a_plugins_error_is_one_line_and_exit_1(plugins: RecordingPlugins) -> None:
    plugins.fail("two ADD", 7, "bad\nconf", "really")
    ended = run(plugins, "add", "net", "/n")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "tartan: plugin two failed (ADD): bad conf; really (code 7)\n"
    assert plugins.said() == ["one ADD", "two ADD", "two DEL", "one DEL"]


def test_ctrl_c_ends_the_plugin_and_takes_back_what_was_done(plugins: RecordingPlugins) -> None:
    plugins.answer("two ADD", sleep=60)
    process = subprocess.Popen([sys.executable, "-m", "tartan", *words(plugins, "add", "net", "/n")], stderr=subprocess.PIPE)
    try:
        calls = plugins.directory / "calls"
        deadline = time.monotonic() + 20
        while not (calls.exists() and calls.read_text().count("\n") == 2) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    told = plugins.calls()
    assert [f"{one.plugin} {one.command}" for one in told] == ["one ADD", "two ADD", "two DEL", "one DEL"]
    assert not Path(f"/proc/{told[1].pid}").exists()
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("add", "net", "/n", "--cap", "mac"), "--cap: got 'mac', expected NAME=JSON"),
        (("add", "net", "/n", "--cap", "mac=02:00"), "--cap mac: got '02:00', expected JSON"),
        (("add", "net", "/n", "--cap-args", "[]"), "--cap-args: got [], expected a JSON object"),
        (("gc", "net", "--keep", "c1"), "--keep: got 'c1', expected ID/IFNAME"),
    ],
)
def test_words_that_make_no_sense_are_refused(arguments: tuple[str, ...], wrong: str, plugins: RecordingPlugins) -> None:
    result = invoke(plugins, *arguments)
    assert result.exit_code == 2
    assert wrong in result.stderr
    assert plugins.said() == []


def test_an_id_that_is_none_is_an_error(plugins: RecordingPlugins) -> None:
    ended = run(plugins, "del", "net", "/n", "--id", "../c1")
    assert (ended.returncode, plugins.said()) == (1, [])
    assert ended.stderr.startswith("tartan: CNI_CONTAINERID: got '../c1', expected letters")


def test_gc_tells_what_it_detached(plugins: RecordingPlugins) -> None:
    for container_id in ("c1", "c2"):
        invoke(plugins, "add", "net", "/n", "--id", container_id)
    assert invoke(plugins, "gc", "net", "--keep", "c1/eth0").stdout == "detached c2/eth0\n"


def test_gc_says_when_the_network_does_not_want_it(plugins: RecordingPlugins, tmp_path: Path) -> None:
    (tmp_path / "net.d/10-net.conflist").write_text(conflist_text("one", disableGC=True))
    assert invoke(plugins, "gc", "net").stdout == "net has disableGC: nothing done\n"


def test_status_is_ready_or_the_plugins_reason(plugins: RecordingPlugins) -> None:
    assert invoke(plugins, "status", "net").stdout == "ready\n"
    plugins.fail("one STATUS", 50, "no subnet yet")
    ended = run(plugins, "status", "net")
    assert (ended.returncode, ended.stderr) == (1, "tartan: plugin one failed (STATUS): no subnet yet (code 50)\n")


def test_status_says_when_nobody_can_be_asked(plugins: RecordingPlugins, tmp_path: Path) -> None:
    (tmp_path / "net.d/10-net.conflist").write_text(conflist_text("one", version="1.0.0"))
    assert invoke(plugins, "status", "net").stdout == "net is 1.0.0: plugins can be asked since 1.1.0\n"


def test_version_shows_all_and_fails_if_one_does_not_fit(plugins: RecordingPlugins) -> None:
    assert invoke(plugins, "version", "net").stdout.splitlines()[:2] == ["net: 1.1.0", "  one: 0.3.1 0.4.0 1.0.0 1.1.0"]
    plugins.answer("two VERSION", stdout='{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}')
    ended = run(plugins, "version", "net")
    assert ended.returncode == 1
    assert "  two: 1.0.0\n" in ended.stdout
    assert "plugin two failed (VERSION): incompatible CNI versions" in ended.stderr


# list


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    key = Key("cbr0", "0123456789abcdef", "eth0")
    address, link = HeldAddress("/var/lib/cni/networks/cbr0", ip_address("10.244.1.2")), HeldLink("veth1")
    ports = (HeldElement("ports4", "tcp . 8080", "10.244.1.2 . 80"), HeldElement("hairpin4", "10.244.1.2"))
    with Ledger(tmp_path / "journal") as ledger:
        ledger.write(Record(key, "bridge", (address, link), Netns("/run/netns/a", 1, 2), State.MADE, 1_700_000_000))
        ledger.write(Record(key, "portmap", ports, None, State.MAKING, 1_700_000_001))
        ledger.write(Record(Key("cbr0", "another", "eth0"), "bridge", (), None, State.MADE, 1_700_000_002))
    return tmp_path / "journal"


def test_list_is_a_row_for_each_attachment(journal: Path) -> None:
    result = CliRunner().invoke(tartan, ["cni", "list", "--journal", str(journal)], env={"COLUMNS": "140"})
    row = next(line for line in result.stdout.splitlines() if "veth1" in line)
    for shown in ("cbr0", "0123456789ab ", "eth0", "10.244.1.2", "tcp . 8080 -> 10.244.1.2 . 80", "making", "2023-11-1"):
        assert shown in row
    assert result.stdout.endswith("2 attachments\n")


def test_list_as_json_is_whole(journal: Path) -> None:
    result = CliRunner().invoke(tartan, ["cni", "list", "--json", "--journal", str(journal)])
    first, _ = map(json.loads, result.stdout.splitlines())
    assert first == {
        "network": "cbr0",
        "container": "0123456789abcdef",
        "ifname": "eth0",
        "plugins": ["bridge", "portmap"],
        "addresses": ["10.244.1.2"],
        "links": ["veth1"],
        "ports": ["tcp . 8080 -> 10.244.1.2 . 80"],
        "netns": "/run/netns/a",
        "state": "making",
        "since": 1_700_000_000,
    }


def test_no_journal_is_no_attachments(tmp_path: Path) -> None:
    result = CliRunner().invoke(tartan, ["cni", "list", "--journal", str(tmp_path / "none")])
    assert result.stdout.endswith("0 attachments\n")


def test_install_prints_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("cni.install")
    module.__dict__["install"] = _install
    monkeypatch.setitem(sys.modules, "cni.install", module)
    result = CliRunner().invoke(tartan, ["cni", "install", str(tmp_path)])
    assert result.stdout == f"{tmp_path}/bridge\n{tmp_path}/loopback\n"


def _install(directory: Path) -> list[Path]:
    return [directory / "bridge", directory / "loopback"]
