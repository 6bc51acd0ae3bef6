"""What CRI says of images, of what is used and of events, asked of our engine; and that its end is not its pods'."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin_sets import PROGRAMS, TARTAN, missing
from containerd_host import CriClient, CriError
from flanneld_world import eventually
from oci_image import IMAGE
from runtime_cri_host import NEEDS, ROOT, SOCKET, TartanHost, one_tartan_host

pytestmark = pytest.mark.root
SLEEP = ("sleep", "1000000")
BUSY = "while true; do :; done"


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


def test_a_kubelet_is_told_what_it_deals_with(runtime: TartanHost) -> None:
    version = runtime.cri("Version")
    assert (version["runtime_name"], version["runtime_api_version"]) == ("tartan", "v1")
    assert runtime.cri("RuntimeConfig")["linux"]["cgroup_driver"] == "CGROUPFS"
    status = runtime.cri("Status", verbose=True)
    assert [handler["name"] for handler in status["runtime_handlers"]] == ["", "runc"]
    assert status["features"]["supplemental_groups_policy"]
    runtime.cri("UpdateRuntimeConfig", runtime_config={"network_config": {"pod_cidr": "10.1.0.0/24"}})
    with pytest.raises(CriError, match="INVALID_ARGUMENT"):
        runtime.cri("RunPodSandbox", config=runtime.pod_config("kata", {}), runtime_handler="kata")
    with pytest.raises(CriError, match="UNIMPLEMENTED"):
        runtime.cri("CheckpointContainer", container_id="x")


def test_an_image_that_is_not_there_is_no_error(runtime: TartanHost) -> None:
    for name in ("localhost/absent:1", "sha256:" + "0" * 64):
        assert "image" not in runtime.cri("ImageStatus", image={"image": name})
        runtime.cri("RemoveImage", image={"image": name})
        assert runtime.cri("ListImages", filter={"image": {"image": name}})["images"] == []


def test_an_image_is_known_by_its_names_and_its_id(runtime: TartanHost) -> None:
    by_name = runtime.cri("ImageStatus", image={"image": IMAGE})["image"]
    assert by_name["repo_tags"] == [IMAGE]
    assert int(by_name["size"]) > 100_000
    assert runtime.cri("ImageStatus", image={"image": by_name["id"]}, verbose=True)["image"] == by_name
    assert runtime.cri("ListImages")["images"] == [by_name]


def test_what_docker_builds_a_pod_runs(runtime: TartanHost) -> None:
    context = Path("/run/context")
    runtime.host.call(context.mkdir)
    runtime.host.call((context / "Dockerfile").write_text, f'FROM {IMAGE}\nENV WHAT=built\nUSER 1234\nCMD ["sh"]\n')
    runtime.docker("build", "-q", "-t", "app:1", str(context))
    told = runtime.cri("ImageStatus", image={"image": "app:1"})["image"]
    assert (told["repo_tags"], told["uid"]["value"]) == (["docker.io/library/app:1"], "1234")
    pod = runtime.pod("built")
    assert pod.output("sh", "-c", "echo $WHAT", image={"image": told["id"]}) == "built"
    runtime.clear()
    runtime.cri("RemoveImage", image={"image": told["id"]})
    assert "image" not in runtime.cri("ImageStatus", image={"image": "app:1"})


@pytest.fixture
def registry(runtime: TartanHost) -> Iterator[str]:
    """A registry on the host's loopback, with our image as team/app:1."""
    program, config, name = PROGRAMS.parent / "lib/docker/docker-registry", Path("/run/registry.yml"), "127.0.0.1:5005/team/app:1"
    if not program.exists():
        pytest.skip(f"no {program}: ./dev test fetches Debian's")
    text = "version: 0.1\nstorage: {filesystem: {rootdirectory: /run/registry}}\nhttp: {addr: 127.0.0.1:5005}\n"
    runtime.host.call(config.write_text, text)
    serving = runtime.host.start([str(program), "serve", str(config)], runtime.host.directory / "registry.log")
    try:
        eventually(lambda: not runtime.host.run(["curl", "-sf", "127.0.0.1:5005/v2/"], check=False).returncode, "it serves")
        runtime.docker("tag", IMAGE, name)
        runtime.docker("push", "-q", name)
        runtime.docker("rmi", name)
        yield name
    finally:
        serving.terminate()
        serving.wait(10)


def test_an_image_is_pulled_and_known_to_docker(runtime: TartanHost, registry: str) -> None:
    pulled = runtime.cri("PullImage", image={"image": registry}, auth={"username": "somebody", "password": "secret"})["image_ref"]
    told = runtime.cri("ImageStatus", image={"image": pulled})["image"]
    assert registry in told["repo_tags"]
    assert told["repo_digests"][0].startswith("127.0.0.1:5005/team/app@sha256:")
    assert runtime.docker("images", "-q", "--no-trunc", registry).strip() == pulled
    pod = runtime.pod("pulled")
    container = pod.create(*SLEEP, image={"image": pulled})
    assert pod.status(container)["image_ref"] == told["repo_digests"][0]
    with pytest.raises(CriError, match="NOT_FOUND"):
        runtime.cri("PullImage", image={"image": "127.0.0.1:5005/team/absent:1"})


def test_docker_sees_pods_and_spares_them(runtime: TartanHost) -> None:
    pod = runtime.pod("seen")
    pod.ended(pod.start("sh", "-c", "true", name="done"))
    assert runtime.docker("ps", "-a", "--format", "{{.Names}}").splitlines() == [
        f"k8s_{name}_seen_tartan_{pod.config['metadata']['uid']}_0" for name in ("done", "POD")
    ]
    runtime.docker("container", "prune", "-f")
    assert len(runtime.cri("ListContainers")["containers"]) == 1


def test_a_command_has_its_time_and_no_more(runtime: TartanHost) -> None:
    container = runtime.pod("execs").start(*SLEEP)
    said = runtime.cri("ExecSync", container_id=container, cmd=["sh", "-c", "echo out; echo err >&2; exit 4"], timeout=5)
    assert said["exit_code"] == 4
    assert [base64.b64decode(said[name]) for name in ("stdout", "stderr")] == [b"out\n", b"err\n"]
    with pytest.raises(CriError, match=r"DEADLINE_EXCEEDED.*timed out after 1 s"):
        runtime.cri("ExecSync", container_id=container, cmd=["sleep", "77777"], timeout=1)
    assert "77777" not in runtime.exec_sync(container, ("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))
    with pytest.raises(CriError, match="executable file not found"):
        runtime.cri("ExecSync", container_id=container, cmd=["nosuch"], timeout=5)


def test_a_commands_output_is_limited(runtime: TartanHost) -> None:
    container = runtime.pod("talks").start(*SLEEP)
    command = ["sh", "-c", "cat /dev/zero | busybox head -c 20000000"]
    said = runtime.cri("ExecSync", container_id=container, cmd=command, timeout=20)
    assert len(base64.b64decode(said["stdout"])) == (16 << 20) - 1024


def test_limits_are_changed_while_it_runs(runtime: TartanHost) -> None:
    pod = runtime.pod("limits")
    container = pod.start(*SLEEP, linux={"resources": {"cpu_shares": 512, "memory_limit_in_bytes": 64 << 20}})
    before = pod.status(container)["resources"]["linux"]
    assert (before["cpu_shares"], before["memory_limit_in_bytes"]) == ("512", str(64 << 20))
    runtime.cri("UpdateContainerResources", container_id=container, linux={"memory_limit_in_bytes": 128 << 20, "cpu_shares": 256})
    after = pod.status(container)["resources"]["linux"]
    assert (after["cpu_shares"], after["memory_limit_in_bytes"]) == ("256", str(128 << 20))
    stats = runtime.cri("ContainerStats", container_id=container)["stats"]
    assert int(stats["memory"]["available_bytes"]["value"]) <= 128 << 20


def test_what_pods_use_is_told(runtime: TartanHost) -> None:
    pod = runtime.pod("uses")
    container = pod.start("sh", "-c", f"busybox head -c 3000000 /dev/zero >/file; {BUSY}")
    pod.create(*SLEEP, name="waits")
    runtime.exec_sync(container, ("sh", "-c", "sleep 1.2"))
    runtime.cri("PodSandboxStats", pod_sandbox_id=pod.sandbox)
    first = {each["attributes"]["id"]: each for each in runtime.cri("ListContainerStats")["stats"]}
    assert int(first[container]["writable_layer"]["used_bytes"]["value"]) >= 3_000_000
    assert first[container]["writable_layer"]["fs_id"]["mountpoint"] == str(ROOT)
    assert int(first[container]["cpu"]["usage_core_nano_seconds"]["value"]) > 100_000_000
    runtime.exec_sync(container, ("sh", "-c", "sleep 1.2"))
    stats = runtime.cri("PodSandboxStats", pod_sandbox_id=pod.sandbox)["stats"]["linux"]
    assert int(stats["cpu"]["usage_nano_cores"]["value"]) > 100_000_000
    assert int(stats["process"]["process_count"]["value"]) >= 2
    assert stats["network"]["default_interface"]["name"] == "eth0"
    assert [each["attributes"]["id"] for each in stats["containers"]] == [container]
    disk = runtime.cri("ImageFsInfo")
    assert disk["image_filesystems"][0]["fs_id"]["mountpoint"] == str(ROOT)
    assert int(disk["image_filesystems"][0]["used_bytes"]["value"]) > 100_000


def test_what_happens_is_told_as_it_happens(runtime: TartanHost) -> None:
    listener = CriClient(runtime.host, str(SOCKET))
    listener("Version")
    number = listener.say("GetContainerEvents", {}, timeout_s=3)
    runtime.pod("first")  # by when the stream has begun
    pod = runtime.pod("events")
    container = pod.start("sh", "-c", "true")
    pod.ended(container)
    runtime.remove_pod_sandbox(pod.sandbox)
    events = listener.hear([number], "GetContainerEvents")[0]["responses"]
    listener.close()
    told = [event["container_event_type"] for event in events if event["container_id"] == container]
    assert told == [f"CONTAINER_{what}_EVENT" for what in ("CREATED", "STARTED", "STOPPED", "DELETED")]
    started = next(event for event in events if event["container_id"] == pod.sandbox and "STARTED" in event["container_event_type"])
    assert started["pod_sandbox_status"]["metadata"]["name"] == "events"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_pods_run_on_without_the_engine(runtime: TartanHost, how: signal.Signals) -> None:
    pod = runtime.pod("lasting")
    runs, ends = pod.start(*SLEEP, name="runs"), pod.start("sh", "-c", "sleep 0.3; exit 6", name="ends")
    waits = pod.create(*SLEEP, name="waits")
    before = runtime.pod_status(pod.sandbox)
    runtime.restart(how)
    assert runtime.pod_status(pod.sandbox) == before
    ended = pod.ended(ends)
    assert (ended["exit_code"], ended["reason"]) == (6, "Error")
    assert "eth0" in runtime.exec_sync(runs, ("ip", "link"))
    runtime.start_container(waits)
    runtime.remove_pod_sandbox(pod.sandbox)
    assert runtime.sandboxes() == []
