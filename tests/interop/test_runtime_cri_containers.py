"""What CRI says of containers, asked of our engine as a kubelet asks it: their lives, their rights, what they share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin_sets import TARTAN, missing
from containerd_host import CriError
from oci_image import IMAGE
from runtime_cri_host import NEEDS, Pod, TartanHost, one_tartan_host

pytestmark = pytest.mark.root
SLEEP = ("sleep", "1000000")
OWN_PROCESSES = {"network": "POD", "pid": "CONTAINER", "ipc": "POD"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TartanHost]:
    if why := missing(TARTAN, NEEDS):
        pytest.skip(why)
    with one_tartan_host(tmp_path_factory.mktemp("image")) as machine:
        yield machine


@pytest.fixture
def runtime(machine: TartanHost) -> Iterator[TartanHost]:
    """Without pods, before and after."""
    try:
        yield machine
    finally:
        machine.clear()
        assert machine.docker("ps", "-aq") == ""


def test_a_container_lives_once(runtime: TartanHost) -> None:
    pod = runtime.pod("once")
    container = pod.create("sh", "-c", "echo out; echo err >&2; exit 3", labels={"a": "b"}, annotations={"c": "d"})
    made = pod.status(container)
    assert (made["state"], made["started_at"], made["finished_at"]) == ("CONTAINER_CREATED", "0", "0")
    runtime.start_container(container)
    ended = pod.ended(container)
    assert (ended["exit_code"], ended["reason"]) == (3, "Error")
    assert int(ended["created_at"]) < int(ended["started_at"]) < int(ended["finished_at"])
    assert (ended["labels"], ended["annotations"]) == ({"a": "b"}, {"c": "d"})
    with pytest.raises(CriError, match="FAILED_PRECONDITION"):
        runtime.start_container(container)


def test_a_log_is_what_kubelets_read(runtime: TartanHost) -> None:
    pod = runtime.pod("logs")
    status = pod.ended(pod.start("sh", "-c", "echo out; echo err >&2; printf unended"))
    assert (status["reason"], status["log_path"]) == ("Completed", f"{pod.config['log_directory']}/main.log")
    lines = sorted(line.split(" ", 1) for line in runtime.read(status["log_path"]).splitlines())
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z", time) for time, _ in lines)
    assert sorted(rest for _, rest in lines) == ["stderr F err", "stdout F out", "stdout P unended"]


def test_a_log_that_was_moved_away_is_opened_again(runtime: TartanHost) -> None:
    pod = runtime.pod("rotated")
    container = pod.start("sh", "-c", "echo before; while ! [ -e /go ]; do sleep 0.02; done; echo after; sleep 1000000")
    log = Path(pod.status(container)["log_path"])
    runtime.host.call(log.rename, log.with_suffix(".old"))
    runtime.cri("ReopenContainerLog", container_id=container)
    runtime.exec_sync(container, ("sh", "-c", "echo >/go; sleep 0.3"))
    assert runtime.read(log).endswith("stdout F after\n")
    assert runtime.read(log.with_suffix(".old")).endswith("stdout F before\n")


def test_a_program_that_is_not_there_ends_its_container(runtime: TartanHost) -> None:
    pod = runtime.pod("absent")
    container = pod.create("nosuch")
    with pytest.raises(CriError, match="executable file not found"):
        runtime.start_container(container)
    status = pod.status(container)
    assert (status["state"], status["reason"], status["exit_code"]) == ("CONTAINER_EXITED", "StartError", 127)
    assert "nosuch" in status["message"]
    assert int(status["finished_at"]) > 0


def test_who_takes_too_much_memory_is_said_to_have(runtime: TartanHost) -> None:
    pod = runtime.pod("greedy")
    limits = {"resources": {"memory_limit_in_bytes": 16 << 20}}
    container = pod.start("sh", "-c", "x=x; while true; do x=$x$x; done", linux=limits)
    status = pod.ended(container)
    assert (status["reason"], status["exit_code"]) == ("OOMKilled", 137)
    assert status["resources"]["linux"]["memory_limit_in_bytes"] == str(16 << 20)


def test_command_and_arguments_take_the_place_of_the_images(runtime: TartanHost) -> None:
    pod = runtime.pod("words")
    envs = [{"key": "GREETING", "value": "a=b c"}]
    said = pod.output("sh", "-c", 'echo "$GREETING $PWD $0 $1"', args=["zero", "one"], envs=envs, working_dir="/new/dir")
    assert said == "a=b c /new/dir zero one"
    only_args = pod.start(name="args", args=["1000000"], linux={"security_context": {"namespace_options": OWN_PROCESSES}})
    assert runtime.exec_sync(only_args, ("cat", "/proc/1/cmdline")) == "/bin/sleep\x001000000\x00"


def test_stopping_asks_first_and_kills_then(runtime: TartanHost) -> None:
    pod = runtime.pod("stops")
    polite = pod.start("sh", "-c", "trap 'exit 5' TERM; while true; do sleep 0.05; done", name="polite", stop_signal="SIGTERM")
    deaf = pod.start("sh", "-c", "trap '' TERM; while true; do sleep 0.05; done", name="deaf", stop_signal="SIGTERM")
    for container, timeout_s in ((polite, 10), (deaf, 1)):
        runtime.cri("StopContainer", container_id=container, timeout=timeout_s)
    assert (pod.status(polite)["exit_code"], pod.status(deaf)["exit_code"]) == (5, 137)
    runtime.cri("StopContainer", container_id=polite, timeout=10)


def test_what_is_gone_is_stopped_and_removed_again_and_again(runtime: TartanHost) -> None:
    pod = runtime.pod("gone")
    container = pod.start(*SLEEP)
    pod.runtime.remove_pod_sandbox(pod.sandbox)
    for identity in (container, "0" * 64):
        runtime.stop_container(identity)
        runtime.remove_container(identity)
    for identity in (pod.sandbox, "0" * 64):
        runtime.stop_pod_sandbox(identity)
        runtime.remove_pod_sandbox(identity)
    with pytest.raises(CriError, match="NOT_FOUND"):
        runtime.pod_status(pod.sandbox)
    with pytest.raises(CriError, match="NOT_FOUND"):
        pod.status(container)


def test_a_pod_is_not_made_twice(runtime: TartanHost) -> None:
    pod = runtime.pod("single")
    with pytest.raises(CriError, match="ALREADY_EXISTS"):
        runtime.run_pod_sandbox(pod.config)
    container = pod.create(*SLEEP)
    with pytest.raises(CriError, match="ALREADY_EXISTS"):
        pod.create(*SLEEP)
    pod.create(*SLEEP, metadata={"name": "main", "attempt": 1})
    assert len(runtime.cri("ListContainers", filter={"pod_sandbox_id": pod.sandbox})["containers"]) == 2
    assert container


def test_lists_are_filtered(runtime: TartanHost) -> None:
    one, other = runtime.pod("one"), runtime.pod("other")
    runs, ended = (
        one.start(*SLEEP, name="runs", labels={"app": "x"}),
        one.start("sh", "-c", "true", name="ends", labels={"app": "y"}),
    )
    waits = other.create(*SLEEP, name="waits", labels={"app": "x"})
    one.ended(ended)

    def listed(**wanted: object) -> set[str]:
        return {each["id"] for each in runtime.cri("ListContainers", filter=wanted)["containers"]}

    assert listed() == {runs, ended, waits}
    assert listed(label_selector={"app": "x"}) == {runs, waits}
    assert listed(state={"state": "CONTAINER_EXITED"}) == {ended}
    assert listed(pod_sandbox_id=other.sandbox) == {waits}
    assert listed(id=runs[:20], label_selector={"app": "x"}) == {runs}
    runtime.stop_pod_sandbox(other.sandbox)
    items = runtime.cri("ListPodSandbox", filter={"state": {"state": "SANDBOX_READY"}})["items"]
    assert [each["id"] for each in items] == [one.sandbox]


def test_users_and_groups_are_what_the_pod_says(runtime: TartanHost) -> None:
    pod = runtime.pod("users")

    def groups(**rights: object) -> tuple[str, ...]:
        name = f"c{len(runtime.cri('ListContainers')['containers'])}"
        security = {"run_as_user": {"value": 1000}, "supplemental_groups": [2000], **rights}
        said = pod.output(
            "sh", "-c", "grep -E '^(Uid|Gid|Groups)' /proc/self/status", name=name, linux={"security_context": security}
        )
        return tuple(" ".join(line.split()[1:]) for line in said.splitlines())

    assert groups() == ("1000 1000 1000 1000", "0 0 0 0", "0 2000")
    assert groups(run_as_group={"value": 3000}) == ("1000 1000 1000 1000", "3000 3000 3000 3000", "2000 3000")
    with pytest.raises(CriError, match=r"INVALID_ARGUMENT.*group is specified without user"):
        groups(run_as_user=None, run_as_group={"value": 1})


def test_rights_are_what_the_pod_says(runtime: TartanHost) -> None:
    pod = runtime.pod("rights")

    def status(name: str, **rights: object) -> dict[str, str]:
        said = pod.output("cat", "/proc/self/status", name=name, rights=rights)
        return dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)

    plain = status("plain")
    assert (plain["CapBnd"], plain["Seccomp"].strip(), plain["NoNewPrivs"]) == ("00000000a80425fb", "0", "0")
    tight = status(
        "tight", no_new_privs=True, capabilities={"drop_capabilities": ["ALL"]}, seccomp={"profile_type": "RuntimeDefault"}
    )
    assert (tight["CapBnd"], tight["Seccomp"].strip(), tight["NoNewPrivs"]) == ("0000000000000000", "2", "1")
    added = status("added", capabilities={"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["ALL"]})
    assert added["CapBnd"] == "0000000000001000"


def test_a_seccomp_profile_of_the_nodes_is_obeyed(runtime: TartanHost) -> None:
    pod, profile = runtime.pod("filtered"), Path("/run/no-mkdir.json")
    text = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    runtime.host.call(profile.write_text, text)
    rights = {"seccomp": {"profile_type": "Localhost", "localhost_ref": str(profile)}}
    assert pod.output("sh", "-c", "mkdir /x 2>/dev/null || echo refused", rights=rights) == "refused"
    absent = {"seccomp": {"profile_type": "Localhost", "localhost_ref": "/run/absent.json"}}
    with pytest.raises(CriError, match=r"INVALID_ARGUMENT.*absent\.json"):
        pod.create("true", name="absent", linux={"security_context": absent})


def test_what_is_read_only_and_what_is_masked_is_so(runtime: TartanHost) -> None:
    pod = runtime.pod("hidden")
    rights = {"readonly_rootfs": True, "masked_paths": ["/etc"], "readonly_paths": ["/proc/sys"]}
    script = (
        "echo x 2>/dev/null >/x || echo ro; cat /etc/passwd 2>/dev/null || echo masked; cat /proc/version >/dev/null && echo ok"
    )
    assert pod.output("sh", "-c", script, rights=rights) == "ro\nmasked\nok"


def test_privileged_containers_are_for_privileged_pods(runtime: TartanHost) -> None:
    with pytest.raises(CriError, match=r"INVALID_ARGUMENT.*no privileged container allowed"):
        runtime.pod("plain").create("true", linux={"security_context": {"privileged": True}})
    pod = runtime.pod("privileged", security_context={"privileged": True})
    script = "echo 1 >/proc/sys/net/ipv4/ip_forward && echo may"
    assert pod.output("sh", "-c", script, rights={"privileged": True}) == "may"


def test_host_paths_are_mounted_as_they_are_asked_for(runtime: TartanHost) -> None:
    pod = runtime.pod("mounts")
    mounts = [
        {"host_path": "/run/made/for/it", "container_path": "/data"},
        {"host_path": "/run/made", "container_path": "/look", "readonly": True},
    ]
    script = "echo hello >/data/x; cat /look/for/it/x; echo 2>/dev/null x >/look/y || echo ro"
    assert pod.output("sh", "-c", script, mounts=mounts) == "hello\nro"
    assert runtime.read("/run/made/for/it/x") == "hello\n"


def test_an_image_is_a_volume_that_nobody_writes(runtime: TartanHost) -> None:
    pod = runtime.pod("images")
    mounts = [{"container_path": "/image", "image": {"image": IMAGE}, "readonly": True}]
    script = "cat /image/etc/passwd; echo 2>/dev/null x >/image/y || echo ro"
    assert pod.output("sh", "-c", script, mounts=mounts) == "root:x:0:0:root:/:/bin/sh\nro"


@pytest.mark.parametrize(("mode", "first"), [("POD", "/pause"), ("CONTAINER", "cat")])
def test_processes_are_seen_by_whom_the_pod_says(runtime: TartanHost, mode: str, first: str) -> None:
    namespaces = {"network": "POD", "pid": mode, "ipc": "POD"}
    pod = runtime.pod("processes", security_context={"namespace_options": namespaces})
    assert pod.output("cat", "/proc/1/cmdline", rights={"namespace_options": namespaces}).split("\0")[0] == first


def test_a_pod_may_see_the_nodes_processes(runtime: TartanHost) -> None:
    namespaces = {"network": "POD", "pid": "NODE", "ipc": "POD"}
    pod = runtime.pod("processes", security_context={"namespace_options": namespaces})
    said = pod.output("cat", "/proc/1/cmdline", rights={"namespace_options": namespaces})
    assert said == runtime.host.call(Path("/proc/1/cmdline").read_text)


def test_a_container_looks_into_another(runtime: TartanHost) -> None:
    pod = runtime.pod("debugged")
    target = pod.start(*SLEEP, name="target", linux={"security_context": {"namespace_options": OWN_PROCESSES}})
    rights = {"namespace_options": {"network": "POD", "pid": "TARGET", "ipc": "POD", "target_id": target}}
    said = pod.output("sh", "-c", "cat /proc/1/cmdline", name="debugger", rights=rights)
    assert said == "sleep\x001000000\x00"


def test_containers_of_a_pod_share_what_they_should(runtime: TartanHost) -> None:
    pod = runtime.pod("shared", sysctls={"net.ipv4.ip_default_ttl": "77", "kernel.shm_rmid_forced": "1"})
    linux = {"security_context": {"namespace_options": OWN_PROCESSES}}
    one, other = pod.start(*SLEEP, name="one", linux=linux), pod.start(*SLEEP, name="other", linux=linux)
    look = ("sh", "-c", "for n in net ipc uts pid mnt; do busybox readlink /proc/self/ns/$n; done; hostname")
    first, second = (runtime.exec_sync(each, look).splitlines() for each in (one, other))
    assert first[:3] == second[:3]
    assert not set(first[3:5]) & set(second[3:5])
    assert first[5] == second[5] == "shared"
    runtime.exec_sync(one, ("sh", "-c", "cd /dev/shm; echo here >x"))
    assert runtime.exec_sync(other, ("sh", "-c", "cd /dev/shm; cat x /proc/sys/net/ipv4/ip_default_ttl")) == "here\n77\n"


def test_a_pod_of_the_nodes_network_has_the_nodes_name(runtime: TartanHost) -> None:
    options = {"network": "NODE", "pid": "CONTAINER", "ipc": "NODE"}
    pod = runtime.pod("node", security_context={"namespace_options": options})
    container = pod.start(*SLEEP, linux={"security_context": {"namespace_options": options}})
    assert runtime.exec_sync(container, ("hostname",)).strip() == runtime.host.name
    assert "lan" in runtime.exec_sync(container, ("ip", "link")) or "eth0" in runtime.exec_sync(container, ("ip", "link"))
    assert runtime.pod_status(pod.sandbox)["network"]["ip"] == ""


def test_names_are_asked_of_whom_the_pod_says(runtime: TartanHost) -> None:
    config = runtime.pod_config("dns", {})
    config["dns_config"] = {"servers": ["10.96.0.10"], "searches": ["a.local", "b.local"], "options": ["ndots:5"]}
    pod = Pod(runtime, config, runtime.run_pod_sandbox(config))
    container = pod.start(*SLEEP, log_path="")
    expected = "search a.local b.local\nnameserver 10.96.0.10\noptions ndots:5\n"
    assert runtime.exec_sync(container, ("cat", "/etc/resolv.conf")) == expected


def test_a_user_namespace_is_refused_in_words(runtime: TartanHost) -> None:
    options = {"network": "POD", "pid": "CONTAINER", "ipc": "POD", "userns_options": {"mode": "POD"}}
    with pytest.raises(CriError, match=r"UNIMPLEMENTED.*user namespaces are not supported"):
        runtime.pod("mapped", security_context={"namespace_options": options})
    assert runtime.sandboxes() == []
