"""Labs on the real kernel, with a real etcd and flanneld; each test takes away what it makes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from cni.ledger import Key
from cni.veth import host_name
from flanneld.linux.netns import unmount
from lab import LabError
from lab.lab import Lab
from lab.ping import ping_all
from lab.state import LABS, release
from lab.topology import generate

BARE = """
import sys
from lab.lab import Lab
from lab.topology import generate
Lab.up(generate(2), name=sys.argv[1], start_daemons=False)
"""


def unique_name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts, dual stack, vxlan, a pod on each."""
    with Lab.up(generate(2, ipv6=True), name=unique_name()) as lab:
        yield lab


@pytest.fixture
def name() -> Iterator[str]:
    """A lab name that is free again afterwards, whatever the test did."""
    name = unique_name()
    try:
        yield name
    finally:
        release(name)


def tartan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tartan", "lab", *arguments], capture_output=True, text=True, timeout=60)


def traces(name: str) -> list[str]:
    """What a lab that is gone may not have left: its directory, its mounts, processes that were started for it."""
    left = [str(LABS / name)] if (LABS / name).exists() else []
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if f"{LABS}/{name}" in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            left += [str(process)] if f"{LABS}/{name}/".encode() in process.read_bytes() else []
    return left


def test_every_pod_answers_every_other_in_both_families(lab: Lab) -> None:
    echoes = ping_all([pod for host in lab.hosts for pod in host.pods()])
    assert [echo.failure for echo in echoes] == [""] * 4
    assert {echo.ip.version for echo in echoes} == {4, 6}


def test_a_pod_reaches_the_outside_because_its_host_masquerades(lab: Lab) -> None:
    pod = lab.host("h1").pod("p1")
    assert "0% packet loss" in pod.run(["ping", "-c1", "-W5", "203.0.113.2"]).stdout
    address = str(pod.addresses[0].ip)
    for place in (lab.outside, lab.fabric):
        assert "unreachable" in place.run(["ip", "route", "get", address], check=False).stderr.lower()


def test_a_host_has_its_own_name_interfaces_and_files(lab: Lab) -> None:
    host = lab.host("h1")
    assert host.call(socket.gethostname) == "h1" != socket.gethostname()
    assert {"lo", "eth0", "cni0", "flannel.1"} <= set(host.call(os.listdir, "/sys/class/net"))
    assert host.call(os.listdir, "/sys/fs/cgroup") == os.listdir("/sys/fs/cgroup")
    host.run(["touch", "/run/mine", "/var/lib/mine"])
    assert not any(Path(path).exists() for path in ("/run/mine", "/var/lib/mine"))
    assert not lab.host("h2").call(Path("/run/mine").exists)
    assert host.run(["getent", "hosts", "h2"]).stdout.split()[1] == "h2"


def test_nothing_of_a_lab_is_in_the_machines_own_network(lab: Lab) -> None:
    ours = {name for _, name in socket.if_nameindex()}
    assert not ours & {"h1", "h2", "lan1", "outside", "cni0"}
    assert not Path("/run/netns/p1").exists()


def test_a_pod_is_made_once_and_listed_by_ip_netns(lab: Lab) -> None:
    host = lab.host("h2")
    first, second, other = host.pod("web"), host.pod("web"), host.pod("db")
    assert first == second
    assert not set(first.addresses) & set(other.addresses)
    assert {"web", "db"} <= {line.split()[0] for line in host.run(["ip", "netns"]).stdout.splitlines()}


@pytest.mark.parametrize("pod", ["", "a/b", "../x", "Web", "x" * 64])
def test_a_pod_name_is_a_label_and_a_file_name(lab: Lab, pod: str) -> None:
    with pytest.raises(LabError, match="expected 1 to 63"):
        lab.host("h1").pod(pod)


def test_what_a_killed_run_left_of_a_pod_does_not_hinder_it(lab: Lab) -> None:
    host = lab.host("h1")
    host.run(["ip", "netns", "add", "late"])
    host.run(["ip", "link", "add", host_name(Key("cbr0", "late", "eth0")), "type", "veth", "peer", "name", "x"])
    assert str(host.pod("late").addresses[0]) in host.pod("late").run(["ip", "address"]).stdout


def test_a_pod_that_fails_leaves_nothing(lab: Lab) -> None:
    host = lab.host("h1")
    kept = host.run(["cat", "/run/flannel/subnet.env"]).stdout
    try:
        host.run(["tee", "/run/flannel/subnet.env"], stdin=kept.replace("FLANNEL_MTU=", "FLANNEL_MTU=7"))
        with pytest.raises(LabError, match=r"pod broken: plugin flannel failed .*mtu: got 71430"):
            host.pod("broken")
    finally:
        host.run(["tee", "/run/flannel/subnet.env"], stdin=kept)
    assert "broken" not in host.run(["sh", "-c", "ip netns; ip link"]).stdout + str(host.pods())


def test_exec_passes_the_exit_code_and_says_what_it_cannot_run(lab: Lab) -> None:
    assert tartan("exec", "-n", lab.name, "h1", "--", "sh", "-c", "exit 7").returncode == 7
    missing = tartan("exec", "-n", lab.name, "h1", "nonesuch")
    assert (missing.returncode, missing.stderr) == (127, "tartan: h1: cannot run nonesuch: No such file or directory\n")
    unknown = tartan("exec", "-n", lab.name, "h9", "true")
    assert unknown.returncode == 1
    assert "there is no host 'h9'" in unknown.stderr


def test_a_pods_command_has_the_pods_network_and_the_labs_programs(lab: Lab) -> None:
    shown = tartan("pod", "-n", lab.name, "h1", "p1", "--", "sh", "-c", "hostname; ip -br address show eth0; command -v flanneld")
    host, address, program = shown.stdout.splitlines()
    assert host == "h1"
    assert str(lab.host("h1").pod("p1").addresses[0]) in address
    assert Path(program).parent == Path(sys.executable).parent


def test_a_shell_in_a_pod_says_where_one_is(lab: Lab) -> None:
    command = f"{sys.executable} -m tartan lab pod -n {lab.name} h1 p1"
    terminal = ["script", "-qec", command, "/dev/null"]
    shown = subprocess.run(terminal, input="cd /\nexit\n", stdout=subprocess.PIPE, text=True, timeout=30)
    assert "p1@h1:/# " in shown.stdout


def test_a_detached_command_goes_on_and_ends_with_the_lab(name: str) -> None:
    with Lab.up(generate(1), name=name) as lab:
        said = tartan("pod", "-n", name, "-d", "h1", "web", "--", "sh", "-c", "trap '' TERM; sleep 1000; sleep 1000")
        pid = int(said.stdout.split("process ")[1].split(",")[0])
        assert Path(f"/proc/{pid}").exists()
        assert lab.host("h1").pods()[-1].name == "web"
    assert not Path(f"/proc/{pid}/exe").exists()


def test_a_command_that_fails_says_where_and_why(lab: Lab) -> None:
    with pytest.raises(LabError, match="h1: cat nothing ended with exit code 1: cat: nothing: No such file"):
        lab.host("h1").run(["cat", "nothing"])


def test_a_command_can_be_talked_to_while_it_runs(lab: Lab) -> None:
    with lab.host("h1").popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.communicate("hello", timeout=10)[0] == "hello"


def test_ping_and_status_show_tables(lab: Lab) -> None:
    result = tartan("ping", "-n", lab.name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "p1@h2" in result.stdout
    assert " ms" in result.stdout
    assert "ready" in tartan("status", "-n", lab.name).stdout


def test_ping_exits_1_and_says_why_when_a_pod_does_not_answer(name: str) -> None:
    with Lab.up(generate(2, backend="alloc"), name=name):  # alloc reaches nobody
        result = tartan("ping", "-n", name)
    assert result.returncode == 1
    assert "p1@h1 -> p1@h2 10.244." in result.stdout


def test_routed_segments_meet_in_the_router(name: str) -> None:
    with Lab.up(generate(2, segments=2, ipv6=True), name=name, start_daemons=False) as lab:
        for address in ("10.0.1.11", "fd00:10:1::11", "203.0.113.2", "2001:db8:113::2"):
            lab.host("h1").run(["ping", "-c1", "-W5", address])
        assert "via 10.0.0.1" in lab.host("h1").run(["ip", "route", "get", "10.0.1.11"]).stdout


def test_a_name_that_is_taken_is_refused_and_the_lab_stays(name: str) -> None:
    with Lab.up(generate(1), name=name, start_daemons=False) as lab:
        with pytest.raises(LabError, match="already up"):
            Lab.up(generate(1), name=name)
        lab.host("h1").run(["ping", "-c1", "-W5", "10.0.0.1"])


def test_a_flanneld_that_fails_is_shown_and_the_lab_taken_away(name: str) -> None:
    with pytest.raises(LabError, match=r"flanneld on h1 ended with exit code 3:\n  oh dear"):
        Lab.up(generate(1), name=name, program=["sh", "-c", "echo oh dear; exit 3"])
    assert traces(name) == []


def test_labs_side_by_side_do_not_touch(name: str) -> None:
    other = unique_name()
    with Lab.up(generate(1), name=name, start_daemons=False), Lab.up(generate(1), name=other, start_daemons=False) as second:
        bystander = subprocess.Popen(["sleep", "1000"])
        try:
            release(name)
            second.host("h1").run(["ping", "-c1", "-W5", "10.0.0.1"])
            assert second.fabric.run(["etcdctl", "--endpoints", second.etcd_url, "get", "x"]).returncode == 0
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()
    assert traces(name) + traces(other) == []


def test_several_may_take_a_lab_down_at_once(name: str) -> None:
    with Lab.up(generate(1), name=name, start_daemons=False), ThreadPoolExecutor(4) as threads:
        assert True in threads.map(release, [name] * 4)
    assert traces(name) == []


def test_mount_namespaces_made_meanwhile_do_not_keep_a_lab_alive(name: str) -> None:
    with Lab.up(generate(1), name=name, start_daemons=False):
        holder = subprocess.Popen(["unshare", "--mount", "sleep", "1000"])
        try:
            mounts = Path(f"/proc/{holder.pid}/mounts")
            while "sleep" not in Path(f"/proc/{holder.pid}/comm").read_text():
                time.sleep(0.01)
            assert name in mounts.read_text()
            release(name)
            assert name not in mounts.read_text()
        finally:
            holder.kill()
            holder.wait()


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.25, 0.3, 0.35, 0.5])
def test_down_cleans_up_after_a_lab_that_was_killed_at_any_moment(name: str, after_s: float) -> None:
    maker = subprocess.Popen([sys.executable, "-c", BARE, name])
    time.sleep(after_s)
    maker.kill()
    maker.wait()
    assert tartan("down", "-n", name).returncode == 0
    assert tartan("down", "-n", name).stdout == f"lab {name!r} is not up\n"
    assert traces(name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_cleans_up_itself(name: str, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tartan", "lab", "up", "-n", name]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (LABS / name / "h1").exists():
        time.sleep(0.01)
        assert up.poll() is None
    up.send_signal(number)
    up.communicate(timeout=30)
    assert up.returncode != 0
    assert traces(name) == []


def test_a_host_that_is_half_made_is_named(name: str) -> None:
    with Lab.up(generate(2), name=name, start_daemons=False) as lab:
        files = lab.host("h2").namespaces
        unmount(files[0])
        for said in ("Invalid argument", "No such file or directory"):
            ended = tartan("exec", "-n", name, "h2", "true")
            assert (ended.returncode, ended.stderr) == (1, f"tartan: h2 is not there to enter: {files[0]}: {said}\n")
            files[0].unlink(missing_ok=True)


def test_ctrl_c_ends_a_ping_at_once(name: str) -> None:
    with Lab.up(generate(2, backend="alloc"), name=name, pods=4):  # alloc reaches nobody
        ping = subprocess.Popen([sys.executable, "-m", "tartan", "lab", "ping", "-n", name])
        while len(os.listdir(f"/proc/{ping.pid}/task")) < 8:  # a thread for each pod
            time.sleep(0.01)
            assert ping.poll() is None
        ping.send_signal(signal.SIGINT)
        assert ping.wait(timeout=5) == -signal.SIGINT  # all tries take 12 s


def test_an_up_that_cannot_say_so_leaves_no_lab(name: str) -> None:
    command = [sys.executable, "-m", "tartan", "lab", "up", "-n", name, "--hosts", "1"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode != 0
    assert ended.stderr.startswith("tartan: [Errno 28] No space left on device\n")
    assert traces(name) == []


def test_where_the_user_is_neither_lends_modules_nor_has_to_exist(lab: Lab, name: str, tmp_path: Path) -> None:
    (tmp_path / "flanneld.py").write_text("raise SystemExit('not this one')")
    prefix = f"cd {tmp_path}; {sys.executable} -P -m tartan lab"
    up = ["sh", "-c", f"{prefix} up -n {name} --hosts 1 --pods 0"]
    assert subprocess.run(up, stdout=subprocess.DEVNULL, timeout=60).returncode == 0
    gone = ["sh", "-c", f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -P -m tartan lab exec -n {lab.name} h1 /bin/pwd"]
    assert subprocess.run(gone, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout == "/\n"


KEEP_MANY = """
import os, sys
from pathlib import Path
from flanneld.linux.netns import Mount, mount
from lab.place import keep_namespaces
os.sched_setaffinity(0, range(os.cpu_count()))
mount("tmpfs", sys.argv[1], "tmpfs")
mount("", sys.argv[1], flags=Mount.PRIVATE)
for name in map(str, range(40)):
    directory = Path(sys.argv[1], name)
    directory.mkdir()
    keep_namespaces(directory, lambda: None)
"""


@pytest.mark.parametrize("processor", sorted(os.sched_getaffinity(0)))
def test_hosts_can_be_kept_inside_a_container_whichever_processor_numbered_it(tmp_path: Path, processor: int) -> None:
    container = ["taskset", "--cpu-list", str(processor), "unshare", "--mount", sys.executable, "-c", KEEP_MANY, str(tmp_path)]
    ended = subprocess.run(container, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_ping_outlasts_a_refusal_that_passes(lab: Lab) -> None:
    """As where a host has not yet heard of the newest one: user-space backends answer "network unreachable" at once."""
    host, pods = lab.host("h1"), [host.pod("p1") for host in lab.hosts]
    refused = f"unreachable {pods[1].addresses[0].ip}"
    host.run(["ip", "route", "add", *refused.split()])
    relent = threading.Timer(0.5, host.run, [["ip", "route", "del", *refused.split()]])
    relent.start()
    try:
        assert all(echo.rtt_s is not None for echo in ping_all(pods))
    finally:
        relent.join()
