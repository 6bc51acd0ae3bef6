"""Real containerd on a lab's host, and a kubelet's view of it: the runtime service of CRI v1, through `cri_client`.

Its files are in the host's own /run and /var/lib, its containers in a control group of its own, the pods' network namespaces in the
host's own /run/netns. Must not know what its CNI plugins do.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import count
from pathlib import Path
from typing import Any

from cni_plugin_sets import PROGRAMS, PluginSet
from flanneld_world import eventually, write_file
from host_traces import end_cgroup
from lab import LabError
from lab.logs import last_lines
from lab.pods import LabHost
from oci_image import IMAGE, SERVE
from pod_checks import NO_PORTS, Ports

NEEDS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "busybox", "iptables")
CLIENT = (sys.executable, "-P", str(Path(__file__).with_name("cri_client.py")))
SOCKET = "/run/containerd/containerd.sock"
CONFIG = Path("/run/containerd/config.toml")
CONFLIST = Path("/run/containerd-cni/net.d/10-flannel.conflist")
"""Not where the lab has one for its own pods."""
TIMEOUT_S = 30.0
"""Of one call, on a machine that does much else."""
NAMESPACE = "tartan"


class CriError(Exception):
    """The runtime refused: gRPC's status and details."""


class CriClient:
    """CRI calls by name, with requests and responses as in api.proto; one thread's."""

    def __init__(self, host: LabHost, socket: str = SOCKET) -> None:
        self._child = host.popen([*CLIENT, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._numbers = count()

    def __call__(self, call: str, **request: Any) -> dict[str, Any]:
        """Raises CriError."""
        return self.at_once(call, [request])[0]

    def at_once(self, call: str, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same call with each of the requests, all at the same time; raises CriError for the first that is refused."""
        return self.hear([self.say(call, request) for request in requests], call)

    def say(self, call: str, request: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> int:
        """Begin a call; returns its number, by which its answer is heard."""
        assert self._child.stdin
        number = next(self._numbers)
        print(json.dumps({"id": number, "call": call, "request": request, "timeout_s": timeout_s}), file=self._child.stdin)
        self._child.stdin.flush()
        return number

    def hear(self, wanted: Sequence[int], call: str) -> list[dict[str, Any]]:
        """The answers of these calls; those of others are dropped. Raises CriError for the first that is refused."""
        assert self._child.stdout
        said: dict[int, dict[str, Any]] = {}
        while said.keys() != set(wanted):
            line = self._child.stdout.readline()
            if not line:
                raise CriError(f"{call}: the client has ended")
            answer = json.loads(line)
            if answer["id"] not in wanted:
                continue  # Ctrl-C, or another's error, cut that call short
            if "error" in answer:
                raise CriError(f"{call}: {answer['error']}")
            said[answer["id"]] = answer["response"]
        return [said[number] for number in wanted]

    def close(self) -> None:
        self._child.communicate(timeout=TIMEOUT_S)


@dataclass(frozen=True)
class CriPod:
    """A pod sandbox with one container in it, running."""

    runtime: ContainerdHost
    name: str
    sandbox: str
    """Its id, which is CNI_CONTAINERID."""
    container: str
    address: IPv4Address | IPv6Address

    def exec(self, *argv: str) -> str:
        """What it prints; raises LabError when it fails."""
        return self.runtime.exec_sync(self.container, argv)

    def remove(self) -> None:
        self.runtime.stop_pod_sandbox(self.sandbox)
        self.runtime.remove_pod_sandbox(self.sandbox)


class ContainerdHost:
    """A containerd that runs; `containerd_host` makes it. Another runtime is asked the same at its own socket."""

    def __init__(self, host: LabHost, cgroup: str, socket: str = SOCKET) -> None:
        self.host = host
        self.cgroup = cgroup
        self.cri = CriClient(host, socket)

    def run_pod(self, name: str, ports: Ports = NO_PORTS, command: Sequence[str] = SERVE) -> CriPod:
        """All that a kubelet does for a pod of one container."""
        config = self.pod_config(name, ports)
        sandbox = self.run_pod_sandbox(config)
        container = self.create_container(sandbox, config, command)
        self.start_container(container)
        return CriPod(self, name, sandbox, container, self.pod_address(sandbox))

    def pod_config(self, name: str, ports: Ports, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A PodSandboxConfig; port mappings and annotations are what CNI plugins get to see as capabilities."""
        return {
            "metadata": {"name": name, "uid": uuid.uuid4().hex, "namespace": NAMESPACE},
            "hostname": name,
            "port_mappings": [{"protocol": "TCP", "host_port": here, "container_port": there} for here, there in ports.items()],
            "annotations": dict(annotations or {}),
            "linux": {
                "cgroup_parent": f"/{self.cgroup}",
                "security_context": {"namespace_options": {"network": "POD", "pid": "CONTAINER", "ipc": "POD"}},
            },
        }

    def run_pod_sandbox(self, config: Mapping[str, Any]) -> str:
        """The new sandbox's id."""
        return str(self.cri("RunPodSandbox", config=config)["pod_sandbox_id"])

    def create_container(self, sandbox: str, pod: Mapping[str, Any], command: Sequence[str]) -> str:
        """The new container's id."""
        config = {"metadata": {"name": "main"}, "image": {"image": IMAGE}, "command": list(command), "linux": {}}
        return str(self.cri("CreateContainer", pod_sandbox_id=sandbox, config=config, sandbox_config=pod)["container_id"])

    def start_container(self, container: str) -> None:
        self.cri("StartContainer", container_id=container)

    def exec_sync(self, container: str, argv: Sequence[str]) -> str:
        ended = self.cri("ExecSync", container_id=container, cmd=list(argv), timeout=10)
        if ended["exit_code"]:
            raise LabError(f"{' '.join(argv)} ended with exit code {ended['exit_code']}: {_text(ended, 'stderr')}")
        return _text(ended, "stdout")

    def stop_container(self, container: str) -> None:
        self.cri("StopContainer", container_id=container, timeout=0)

    def remove_container(self, container: str) -> None:
        self.cri("RemoveContainer", container_id=container)

    def stop_pod_sandbox(self, sandbox: str) -> None:
        """Stops its containers too; this is when CNI hears DEL. May be repeated."""
        self.cri("StopPodSandbox", pod_sandbox_id=sandbox)

    def remove_pod_sandbox(self, sandbox: str) -> None:
        self.cri("RemovePodSandbox", pod_sandbox_id=sandbox)

    def pod_status(self, sandbox: str) -> dict[str, Any]:
        status: dict[str, Any] = self.cri("PodSandboxStatus", pod_sandbox_id=sandbox)["status"]
        return status

    def pod_address(self, sandbox: str) -> IPv4Address | IPv6Address:
        return ip_address(self.pod_status(sandbox)["network"]["ip"])

    def sandboxes(self) -> list[str]:
        """The ids of all, stopped ones too."""
        return [item["id"] for item in self.cri("ListPodSandbox")["items"]]

    def conditions(self) -> dict[str, bool]:
        """RuntimeReady and NetworkReady: what a kubelet makes its node's Ready of."""
        return {condition["type"]: condition["status"] for condition in self.cri("Status")["status"]["conditions"]}

    def clear(self) -> None:
        """Stop and remove every pod, all at once."""
        requests = [{"pod_sandbox_id": sandbox} for sandbox in self.sandboxes()]
        for call in ("StopPodSandbox", "RemovePodSandbox"):
            self.cri.at_once(call, requests)


@contextmanager
def containerd_host(host: LabHost, plugins: PluginSet, image: Path) -> Iterator[ContainerdHost]:
    """Start containerd on a host whose flanneld is ready, with this image; in the end nothing of it or of its pods runs."""
    cgroup, log = f"tartan-{uuid.uuid4().hex[:8]}", host.directory / "containerd.log"
    write_file(host, CONFIG, config_text(plugins))
    configure_cni(host, plugins)
    with ExitStack() as ends:
        ends.callback(end_cgroup, cgroup)
        daemon = host.start(["containerd", "--config", str(CONFIG)], log)
        ends.callback(_end, daemon)
        runtime = ContainerdHost(host, cgroup)
        ends.callback(runtime.cri.close)
        try:
            runtime.cri("Version")
            ends.callback(runtime.clear)
            host.run(["ctr", "-a", SOCKET, "-n", "k8s.io", "images", "import", "--snapshotter", "native", str(image)])
            eventually(
                lambda: "image" in runtime.cri("ImageStatus", image={"image": IMAGE}), "CRI learns of containerd's new image"
            )
        except CriError as error:
            raise AssertionError(f"{error}\ncontainerd on {host.name}:\n{last_lines(log)}") from error
        yield runtime


def _end(daemon: subprocess.Popen[str]) -> None:
    daemon.terminate()
    daemon.wait(TIMEOUT_S)


def configure_cni(host: LabHost, plugins: PluginSet) -> None:
    """Put the network configuration in its place at once and whole, as an installer has to.

    The draft is in the same directory: containerd 1.6 looks again when a file there is written or renamed, but not when one comes
    from elsewhere, which inotify reports as a creation (pkg/cri/server/cni_conf_syncer.go).
    """
    env = host.subnet_env()
    assert env is not None, f"flanneld on {host.name} has written no subnet.env"
    write_file(host, CONFLIST.with_suffix(".draft"), plugins.conflist_text(env))
    host.call(CONFLIST.with_suffix(".draft").rename, CONFLIST)


def config_text(plugins: PluginSet) -> str:
    """containerd's config.toml: no TCP, no plugin that cannot work here, nothing outside of the host's own directories."""
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [{", ".join(f'"io.containerd.{name}"' for name in DISABLED)}]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
disable_apparmor = true
disable_tcp_service = true
restrict_oom_score_adj = true
sandbox_image = "{IMAGE}"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins.bin_dir}"
conf_dir = "{CONFLIST.parent}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{PROGRAMS / "runc"}"
SystemdCgroup = false
"""


DISABLED = (
    "internal.v1.tracing",
    "snapshotter.v1.aufs",
    "snapshotter.v1.btrfs",
    "snapshotter.v1.devmapper",
    "snapshotter.v1.overlayfs",
    "snapshotter.v1.zfs",
    "tracing.processor.v1.otlp",
)


def _text(answer: Mapping[str, str], name: str) -> str:
    """A field of kind bytes, which JSON has in base64."""
    return base64.b64decode(answer[name]).decode()
