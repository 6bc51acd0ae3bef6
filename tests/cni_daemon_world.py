"""A lab's host with flanneld's CNI plugins, called as a runtime calls them; a daemon runs only when a test starts one."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cni_held
from cni.journal import _encode, read_journal
from cni.spec import Code
from cni_chain import Chain, ips
from cni_ours import STATE
from cni_world import Attachment, CniHost, Json, Outcome, PluginSet, Sandbox
from flanneld_world import NETWORK, World, eventually, flanneld_world, write_file
from lab.place import Place
from lab.pods import CNI_BIN, NETNS, SUBNET_FILE, LabHost

VERSION = "1.1.0"
FLANNEL: Json = {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}}
PORTMAP: Json = {"type": "portmap", "capabilities": {"portMappings": True}}
PLUGINS = PluginSet("ours", CNI_BIN)
LEASE = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
SLOW = """#!/bin/sh
# An IPAM plugin that takes its time, and says when it is asked.
cat >/dev/null
echo $CNI_COMMAND >>/run/slow
[ $CNI_COMMAND = ADD ] && sleep 0.4 && echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.77.0.2/24"}]}'
exit 0
"""
SLOWLY_BRIDGED: Json = {"cniVersion": VERSION, "name": "slow", "type": "bridge", "bridge": "slow0", "ipam": {"type": "slow"}}


@dataclass
class CniLab:
    """A lab with one host that matters."""

    world: World
    host: LabHost
    cni: CniHost
    chain: Chain

    def lease_of_last_time(self, text: str = LEASE) -> None:
        write_file(self.host, SUBNET_FILE, text)

    def pod(self, ports: Mapping[int, int] | None = None, chain: Chain | None = None) -> tuple[Attachment, Json]:
        """A new pod, attached."""
        attachment = self.cni.attachment()
        return attachment, (chain or self.chain).add(attachment, **mappings(ports or {}))

    def of(self, attachment: Attachment) -> Sandbox:
        return self.cni.of(attachment)

    def status(self) -> Outcome:
        return self.cni.call("flannel", "STATUS", {**FLANNEL, "name": "cbr0", "cniVersion": VERSION})

    def held(self) -> dict[str, object]:
        """All that is held for pods; files only where plugins have some."""
        found = cni_held.everything(self.cni)
        files = found["files"]
        assert isinstance(files, set)
        elements = {element for element in cni_held.elements(self.cni) if not element[0].startswith("near")}  # until reconciled
        return {**found, "elements": elements, "files": {path for path in files if path.startswith("/var/lib/cni/")}}

    def records(self) -> set[tuple[str, str, str, str, str]]:
        return cni_held.records(self.cni)

    def is_left_with(self, before: Mapping[str, object]) -> bool:
        """Soon everything is as it was."""
        eventually(lambda: self.held()["records"] == before["records"] and self.held()["links"] == before["links"], "no leftovers")
        now = self.held()
        assert now == before, f"{now}, expected {before}"
        return True

    def begin(self, conf: Json, attachment: Attachment, command: str = "ADD") -> subprocess.Popen[str]:
        """A call that has been told everything, and is under way."""
        about = {**attachment.environment(), "CNI_COMMAND": command, "CNI_PATH": str(CNI_BIN)}
        place = Place(self.host.name, self.host.namespaces, {**self.host.environment, **about})
        pipe = subprocess.PIPE
        client = place.popen([str(CNI_BIN / conf["type"])], stdin=pipe, stdout=pipe, stderr=pipe)
        assert client.stdin is not None
        client.stdin.write(json.dumps(conf))
        client.stdin.close()
        client.stdin = None
        return client

    def install_slow_ipam(self) -> None:
        def install() -> None:
            (CNI_BIN / "slow").write_text(SLOW)
            (CNI_BIN / "slow").chmod(0o755)

        self.host.call(install)

    def asked_slow_ipam(self) -> list[str]:
        return self.host.call(lambda: Path("/run/slow").read_text().split() if Path("/run/slow").exists() else [])

    def reboot_journal(self) -> None:
        """The journal as it would be after the machine's next start."""

        def rewrite() -> None:
            entries = read_journal(STATE).entries
            lines = [{"journal": 1, "boot": "another"}, *entries]
            STATE.write_bytes(b"".join(map(_encode, lines)))

        self.host.call(rewrite)


def conflist_text() -> str:
    return json.dumps({"name": "cbr0", "cniVersion": VERSION, "plugins": [FLANNEL, PORTMAP]})


def mappings(ports: Mapping[int, int]) -> dict[str, Any]:
    return {"portMappings": [{"hostPort": host, "containerPort": pod, "protocol": "tcp"} for host, pod in ports.items()]}


@contextmanager
def cni_lab(network: Mapping[str, object] = NETWORK, **lab: Any) -> Iterator[CniLab]:
    with flanneld_world(network=network, **lab) as world:
        host = world.lab.host("h1")
        host.call(lambda: NETNS.mkdir(exist_ok=True))
        cni = CniHost(host, Path("/proc/self/ns/net"), PLUGINS)
        yield CniLab(world, host, cni, Chain(cni, (FLANNEL, PORTMAP), "cbr0", VERSION))


@dataclass
class Load:
    """Threads that attach and detach pods, each its own, as fast as they can; what goes wrong is remembered."""

    lab: CniLab
    workers: int
    wrong: list[str] = field(default_factory=list)
    added: int = 0
    refused: int = 0
    _addresses: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    @contextmanager
    def under_way(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._work, args=(n,)) for n in range(self.workers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended = True
            for thread in threads:
                thread.join()

    def _work(self, number: int) -> None:
        pod = self.lab.cni.sandbox()
        turn = 0
        while not self._ended:
            turn += 1
            try:
                self._turn(Attachment(f"c{number}-{turn}", str(pod.path)), 9000 + number)
            except Exception as error:
                self.wrong.append(repr(error))
                return

    def _turn(self, attachment: Attachment, port: int) -> None:
        result: Json | None = None
        for plugin in self.lab.chain.plugins:
            outcome = self._call("ADD", plugin, attachment, result, port)
            if outcome.exit_code:
                self.refused += 1
                if outcome.error["code"] != Code.TRY_LATER:
                    self.wrong.append(str(outcome))
                result = None
                break
            result = outcome.result
        if result is not None:
            with self._lock:
                if again := self._addresses & set(ips(result)):
                    self.wrong.append(f"{again} twice")
                self._addresses |= set(ips(result))
                self.added += 1
            time.sleep(0.01)
            with self._lock:
                self._addresses -= set(ips(result))
        for plugin in reversed(self.lab.chain.plugins):
            outcome = self._call("DEL", plugin, attachment, result, port)
            if outcome.exit_code:
                self.wrong.append(f"DEL: {outcome}")

    def _call(self, command: str, plugin: Json, attachment: Attachment, previous: Json | None, port: int) -> Outcome:
        supplied = mappings({port: 80}) if plugin is PORTMAP else {}
        return self.lab.chain._call(command, plugin, attachment, previous, supplied)


def waits(process: subprocess.Popen[str]) -> Outcome:
    """How a call that was begun ended."""
    out, err = process.communicate(timeout=30)
    return Outcome(process.returncode, out, err)
