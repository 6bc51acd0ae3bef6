"""Our own engine on a lab's host, and a kubelet's view of it; must not know how it does anything.

Its files are in the host's own /run and /var/lib; `restart` and `kill` end the program and start it again, while its pods run on.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_plugin_sets import PROGRAMS, TARTAN, PluginSet
from containerd_host import CONFLIST, TIMEOUT_S, ContainerdHost, CriError, configure_cni
from docker_client import DOCKER as DOCKER_CLIENT
from flanneld_world import eventually
from host_traces import end_cgroup
from lab.lab import Lab
from lab.logs import last_lines
from lab.pods import LabHost
from lab.topology import generate
from oci_image import IMAGE, write_image
from pod_checks import NO_PORTS

RUN = Path("/run/tartan")
ROOT = Path("/var/lib/tartan/runtime")
SOCKET, DOCKER = RUN / "cri.sock", RUN / "docker.sock"
LOGS = Path("/run/log/pods")
NEEDS = ("runc", "busybox")


class TartanHost(ContainerdHost):
    """Our engine, running; `tartan_host` makes it."""

    def __init__(self, host: LabHost, cgroup: str, plugins: PluginSet) -> None:
        super().__init__(host, cgroup, str(SOCKET))
        self._log = host.directory / "engine.log"
        self._bin_dir = plugins.bin_dir
        self._program: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Run the engine's program until it answers."""
        options = ["--cni-conf-dir", str(CONFLIST.parent), "--cni-bin-dir", str(self._bin_dir)]
        self._program = self.host.start([sys.executable, "-m", "tartan", "runtime", "serve", *options], self._log)
        try:
            self.cri("Version")
        except CriError as error:
            raise AssertionError(f"{error}\nthe engine on {self.host.name}:\n{last_lines(self._log)}") from error

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the program; what runs goes on."""
        if self._program is not None:
            self._program.send_signal(how)
            self._program.wait(TIMEOUT_S)
            self._program = None

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.end(how)
        self.start()

    def docker(self, *argv: str) -> str:
        """What the docker client says."""
        return self.host.run([DOCKER_CLIENT, "-H", f"unix://{DOCKER}", *argv]).stdout

    def log(self) -> str:
        return self._log.read_text()

    def pod(self, name: str, **linux: Any) -> Pod:
        """A sandbox; `linux`: of its config, besides the control group."""
        config = self.pod_config(name, NO_PORTS)
        config["log_directory"] = str(LOGS / config["metadata"]["uid"])
        config["linux"] |= linux
        return Pod(self, config, self.run_pod_sandbox(config))

    def read(self, path: Path | str) -> str:
        """A file of the host's."""
        return self.host.call(Path(path).read_text)


@dataclass(frozen=True)
class Pod:
    """A sandbox on our engine."""

    runtime: TartanHost
    config: dict[str, Any]
    sandbox: str

    def create(self, *command: str, name: str = "main", **config: Any) -> str:
        """A container of it; `config`: of its ContainerConfig. Returns its id."""
        given = {
            "metadata": {"name": name},
            "image": {"image": IMAGE},
            "command": list(command),
            "log_path": f"{name}.log",
        } | config
        asked = {"pod_sandbox_id": self.sandbox, "config": given, "sandbox_config": self.config}
        return str(self.runtime.cri("CreateContainer", **asked)["container_id"])

    def start(self, *command: str, **config: Any) -> str:
        """The same, running."""
        container = self.create(*command, **config)
        self.runtime.start_container(container)
        return container

    def output(self, *command: str, rights: Mapping[str, Any] | None = None, **config: Any) -> str:
        """What a container with these rights says until its end, without times and tags; it has to end with 0."""
        container = self.start(*command, **config, **({"linux": {"security_context": rights}} if rights else {}))
        status = self.ended(container)
        lines = self.runtime.read(status["log_path"]).splitlines()
        assert status["exit_code"] == 0, lines
        return "\n".join(line.split(" ", 3)[3] for line in lines)

    def status(self, container: str) -> dict[str, Any]:
        status: dict[str, Any] = self.runtime.cri("ContainerStatus", container_id=container)["status"]
        return status

    def ended(self, container: str) -> dict[str, Any]:
        """Its status once it has ended."""
        eventually(lambda: self.status(container)["state"] == "CONTAINER_EXITED", f"{container} ends")
        return self.status(container)


@contextmanager
def tartan_host(host: LabHost, plugins: PluginSet, image: Path) -> Iterator[TartanHost]:
    """Start our engine on a host whose flanneld is ready, with this image; in the end nothing of it or of its pods runs."""
    cgroup = f"tartan-{uuid.uuid4().hex[:8]}"
    host.call(CONFLIST.parent.mkdir, parents=True, exist_ok=True)
    configure_cni(host, plugins)
    with ExitStack() as ends:
        ends.callback(end_cgroup, cgroup)
        runtime = TartanHost(host, cgroup, plugins)
        ends.callback(runtime.end)
        runtime.start()
        ends.callback(runtime.cri.close)
        ends.callback(runtime.clear)
        runtime.docker("load", "-i", str(image))
        yield runtime


@contextmanager
def one_tartan_host(directory: Path) -> Iterator[TartanHost]:
    """The same on the only host of a lab; the image is written to `directory`."""
    image = directory / "busybox.tar"
    write_image(image, PROGRAMS / "busybox")
    with Lab.up(generate(1), name=f"t{uuid.uuid4().hex[:8]}", pods=0) as lab, tartan_host(lab.hosts[0], TARTAN, image) as runtime:
        yield runtime
