"""What a kubelet asks for, as what the engine is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cri_api.v1 import api_pb2 as cri

from runtime.config import CreateRequest, HostConfig, PortBinding
from runtime.containers.check import check, check_request
from runtime.containers.names import check_name
from runtime.containers.record import Record
from runtime.containers.signals import parse_signal
from runtime.containers.users import find_user
from runtime.cri.container_config import container_request, stop_signal, told_signal
from runtime.cri.containers import log_path
from runtime.cri.resources import limits
from runtime.cri.sandbox_config import container_name, resolver_text, sandbox_request
from runtime.errors import InvalidParameter, NotSupported

SANDBOX = Record(
    id="a" * 64, name="s", created="", image_id="", config=CreateRequest(), host=HostConfig(ipc_mode="shareable"), kind="sandbox"
)
METADATA = {"name": "web", "namespace": "default", "uid": "1234", "attempt": 2}


def pod(**given: object) -> cri.PodSandboxConfig:
    return cri.PodSandboxConfig(metadata=METADATA, **given)  # type: ignore[arg-type]  # messages take mappings


def sandbox(**given: object) -> CreateRequest:
    wanted = sandbox_request(pod(**given), "cbr0", Path("/lib/pause"))
    check_request(wanted)
    check(wanted, wanted.host_config)
    return wanted


def container(config: cri.PodSandboxConfig | None = None, **given: object) -> CreateRequest:
    asked = cri.ContainerConfig(metadata={"name": "main"}, image={"image": "busybox"}, **given)  # type: ignore[arg-type]
    wanted = container_request(asked, config or pod(), SANDBOX)
    check_request(wanted)
    return wanted


def test_a_sandbox_is_a_process_without_rights() -> None:
    wanted = sandbox(hostname="web", linux={"cgroup_parent": "/kubepods/x"})
    host = wanted.host_config
    assert (wanted.cmd, wanted.user, wanted.hostname) == (("/pause", "pause"), "65535:65535", "web")
    assert (host.cap_drop, host.readonly_rootfs, host.network_mode, host.ipc_mode) == (("ALL",), True, "cbr0", "shareable")
    assert (host.cgroup_parent, host.security_opt) == ("/kubepods/x", ("seccomp=unconfined", "no-new-privileges"))


def test_a_sandbox_publishes_its_ports() -> None:
    ports = [
        {"container_port": 80, "host_port": 8080},
        {"container_port": 53, "host_port": 53, "protocol": cri.UDP, "host_ip": "127.0.0.1"},
        {"container_port": 9},
    ]
    bound = sandbox(port_mappings=ports).host_config.port_bindings
    assert bound == {"80/tcp": (PortBinding(host_port="8080"),), "53/udp": (PortBinding(host_ip="127.0.0.1", host_port="53"),)}


def test_a_sandbox_of_the_nodes_network_is_the_nodes() -> None:
    wanted = sandbox(hostname="node", linux={"security_context": {"namespace_options": {"network": cri.NODE, "pid": cri.NODE}}})
    host = wanted.host_config
    assert (wanted.hostname, host.network_mode, host.uts_mode, host.pid_mode) == ("", "host", "host", "host")


def test_a_pods_bandwidth_is_its_networks_business() -> None:
    annotations = {"kubernetes.io/ingress-bandwidth": "10M", "other": "x"}
    options = sandbox(annotations=annotations).networking_config.endpoints_config["cbr0"].driver_opts
    assert options["bandwidth"] == '{"ingressBurst":2147483647,"ingressRate":10000000}'
    assert options["io.kubernetes.cri.pod-annotations"] == '{"kubernetes.io/ingress-bandwidth":"10M","other":"x"}'
    with pytest.raises(InvalidParameter, match="expected bits a second"):
        sandbox(annotations={"kubernetes.io/egress-bandwidth": "fast"})


@pytest.mark.parametrize("missing", ["name", "namespace", "uid"])
def test_a_pod_says_which_it_is(missing: str) -> None:
    with pytest.raises(InvalidParameter, match="must include metadata"):
        sandbox_request(cri.PodSandboxConfig(metadata=METADATA | {missing: ""}), "cbr0", Path("/lib/pause"))  # type: ignore[arg-type]


def test_a_containers_names_are_taken_apart_by_nobody() -> None:
    metadata = cri.PodSandboxMetadata(name="web", namespace="default", uid="1-2")
    assert container_name("main", metadata, 0) == "k8s_main_web_default_1-2_0"
    odd = [
        cri.PodSandboxMetadata(name=name, namespace="d", uid="u") for name in ("x" * 253, "x" * 252 + "y", "ä", "ö", "a/b", "a-b")
    ]
    names = {check_name(container_name("main", each, 0)) for each in odd}
    assert len(names) == len(odd)


def test_a_container_shares_what_its_sandbox_has() -> None:
    host = container().host_config
    shared = f"container:{SANDBOX.id}"
    assert (host.network_mode, host.uts_mode, host.ipc_mode, host.pid_mode) == (shared, shared, shared, shared)
    options = {"namespace_options": {"pid": cri.TARGET, "target_id": "b" * 64, "ipc": cri.NODE}}
    other = container(linux={"security_context": options}).host_config
    assert (other.pid_mode, other.ipc_mode) == (f"container:{'b' * 64}", "host")


def test_an_images_health_check_is_not_a_kubelets() -> None:
    wanted = container().healthcheck
    assert wanted
    assert wanted.test == ("NONE",)


@pytest.mark.parametrize(
    ("rights", "user"),
    [
        ({}, ""),
        ({"run_as_user": {"value": 7}}, "7"),
        ({"run_as_user": {"value": 0}, "run_as_group": {"value": 8}}, "0:8"),
        ({"run_as_username": "www", "run_as_group": {"value": 8}}, "www:8"),
    ],
)
def test_a_user_is_asked_for(rights: dict[str, object], user: str) -> None:
    assert container(linux={"security_context": rights}).user == user


@pytest.mark.parametrize(
    ("rule", "text", "groups"),
    [
        ("", "1000", (100, 50)),
        ("", "1000:7", (7,)),
        ("merge", "1000:7", (7, 50)),
        ("merge", "www", (100, 50)),
        ("strict", "1000", (100,)),
        ("strict", "www:7", (7,)),
    ],
)
def test_groups_of_the_image_are_merged_or_not(tmp_path: Path, rule: str, text: str, groups: tuple[int, ...]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("www:x:1000:100::/home:/bin/sh\n")
    (tmp_path / "etc/group").write_text("www:x:100:\nmore:x:50:www\n")
    assert find_user(tmp_path, text, ["9"], rule).groups == (*groups, 9)


def test_mounts_are_what_they_are_asked_to_be() -> None:
    mounts = [
        {"host_path": "/a", "container_path": "/x/"},
        {"host_path": "/b", "container_path": "/y", "readonly": True, "propagation": cri.PROPAGATION_HOST_TO_CONTAINER},
        {"host_path": "/c", "container_path": "/z", "readonly": True, "recursive_read_only": True},
        {"container_path": "/i", "image": {"image": "sha256:1"}, "image_sub_path": "etc"},
    ]
    plain, slave, recursive, image = container(mounts=mounts).host_config.mounts
    assert plain.bind_options and slave.bind_options and recursive.bind_options and image.image_options  # noqa: PT018 - for types
    assert (plain.target, plain.read_only, plain.bind_options.create_mountpoint) == ("/x", False, True)
    assert (slave.bind_options.propagation, slave.bind_options.read_only_non_recursive) == ("rslave", True)
    assert recursive.bind_options.read_only_force_recursive
    assert (image.type, image.source, image.image_options.subpath) == ("image", "sha256:1", "etc")


@pytest.mark.parametrize(
    "wrong",
    [
        {"mounts": [{"host_path": "/c", "container_path": "/z", "recursive_read_only": True}]},
        {"linux": {"security_context": {"privileged": True}}},
        {"linux": {"security_context": {"run_as_group": {"value": 1}}}},
        {"linux": {"security_context": {"namespace_options": {"pid": cri.TARGET}}}},
        {"linux": {"security_context": {"seccomp": {"profile_type": cri.SecurityProfile.Localhost, "localhost_ref": "x.json"}}}},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        container(**wrong)


@pytest.mark.parametrize(
    "wish",
    [
        {"CDI_devices": [{"name": "vendor.com/gpu=0"}]},
        {"linux": {"security_context": {"capabilities": {"add_ambient_capabilities": ["CHOWN"]}}}},
        {"linux": {"security_context": {"namespace_options": {"userns_options": {"mode": cri.POD}}}}},
        {"mounts": [{"host_path": "/c", "container_path": "/z", "uidMappings": [{"length": 1}]}]},
    ],
)
def test_what_cannot_be_had_is_said_so(wish: dict[str, Any]) -> None:
    with pytest.raises(NotSupported):
        container(**wish)


def test_swap_is_none_unless_it_is_asked_for() -> None:
    assert limits(cri.LinuxContainerResources(memory_limit_in_bytes=100)).memory_swap == 100
    assert limits(cri.LinuxContainerResources(memory_limit_in_bytes=100, memory_swap_limit_in_bytes=300)).memory_swap == 300


def test_every_signal_is_the_engines_too() -> None:
    for name, number in cri.Signal.items():
        if number == cri.RUNTIME_DEFAULT:
            assert stop_signal(number) == ""
            continue
        text = stop_signal(number)
        assert 0 < parse_signal(text) <= 64, name
        assert told_signal(CreateRequest(stop_signal=text)) == number


def test_a_log_stays_in_its_directory() -> None:
    assert log_path("/var/log/pods/x", "main/0.log") == "/var/log/pods/x/main/0.log"
    assert log_path("", "main/0.log") == log_path("/var/log/pods/x", "") == ""
    for name in ("../y", "/etc/passwd", "."):
        with pytest.raises(InvalidParameter, match="invalid log path"):
            log_path("/var/log/pods/x", name)


def test_a_resolver_is_what_it_is_said_to_be() -> None:
    dns = cri.DNSConfig(servers=["1.1.1.1", "fd00::1"], searches=["a", "b"], options=["ndots:5"])
    assert resolver_text(dns) == "search a b\nnameserver 1.1.1.1\nnameserver fd00::1\noptions ndots:5\n"
    assert resolver_text(cri.DNSConfig()) == ""
