"""What should be on a host after any story of calls, deaths and restarts, and the host it is compared with.

The model knows attachments and their addresses, and nothing of how they are made or remembered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any

import cni_held
from cni.ledger import Key
from cni.spec import Code
from cni.veth import host_name
from cni_chain import ips
from cni_ours import SUBNET_FILE
from cni_processes import ServedHost
from cni_story import BRIDGED, NETWORKS, ROUTED, Call, Collect, EndPod, Network, Restart, Step, Together
from cni_world import Attachment, Json, Outcome, Sandbox

VERSION = "1.1.0"
LEASE = """FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.7.1/28
FLANNEL_IPV6_NETWORK=fd00:244::/48
FLANNEL_IPV6_SUBNET=fd00:244:0:7::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=false
"""
POD_PORT = 80
SETTLE_S = 5.0
FAILED_CODES = (Code.TRY_LATER,)


@dataclass
class Attached:
    """A living attachment."""

    result: Json
    port: int


@dataclass
class Model:
    """The story so far, told to a host."""

    served: ServedHost
    living: dict[tuple[str, str], Attached] = field(default_factory=dict)
    pods: dict[str, Sandbox] = field(default_factory=dict)
    dead_ports: set[int] = field(default_factory=set)
    """Of pods that ended: taken until somebody notices."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        self.served.host.put(str(SUBNET_FILE), LEASE)
        self.served.start()

    def play(self, step: Step) -> None:
        match step:
            case Together():
                self._together(step)
            case Collect(network, keep):
                self._collect(NETWORKS[network], keep)
            case EndPod(container):
                self._end_pod(container)
            case Restart(number):
                self.served.kill(number)
                self.served.start()

    def _together(self, step: Together) -> None:
        for call in step.calls:
            if call.container not in self.pods and call.command == "ADD":
                self.pods[call.container] = self.served.host.sandbox(call.container)
        disturbed = step.kill_after_s is not None or not self.served.pid
        with ThreadPoolExecutor(len(step.calls)) as threads:
            under_way = [threads.submit(self._call, call, step.calls, disturbed) for call in step.calls]
            if step.kill_after_s is not None:
                time.sleep(step.kill_after_s)
                self.served.kill()
            if step.revive and not self.served.pid:
                self.served.start()
            for each in under_way:
                each.result()

    def _call(self, call: Call, beside: Sequence[Call], disturbed: bool) -> None:
        network, key = NETWORKS[call.network], (call.network, call.container)
        known = self.living.get(key)
        match call.command:
            case "ADD" if known is not None:
                if not disturbed:  # else the first ADD may be what a dying server was asked for
                    assert self._ask("ADD", network, network.plugins[0], call.container).error["code"] == Code.FAILED
            case "ADD":
                self._add(network, call, beside)
            case "CHECK" if known is not None:
                for plugin in network.plugins:
                    self._ask("CHECK", network, plugin, call.container, known.result, known.port).succeeded()
            case "DEL":
                self._delete(network, call, known)

    def _add(self, network: Network, call: Call, beside: Sequence[Call]) -> None:
        result: Json | None = None
        for plugin in network.plugins:
            outcome = self._ask("ADD", network, plugin, call.container, result, call.port)
            if outcome.exit_code:
                assert outcome.error["code"] in FAILED_CODES, outcome
                rivals = {other.port for other in self.living.values()} | {other.port for other in beside if other is not call}
                assert "host port" not in outcome.text or call.port in rivals | self.dead_ports, outcome
                self._delete(network, call, None)
                return
            result = outcome.result
        assert result is not None
        with self._lock:
            taken = {ip for other in self.living.values() for ip in ips(other.result)}
            assert not taken & set(ips(result)), f"{result} again, {taken} are taken"
            self.living[call.network, call.container] = Attached(result, call.port if network is BRIDGED else 0)

    def _delete(self, network: Network, call: Call, known: Attached | None) -> None:
        told = known.result if known is not None and call.told else None
        for plugin in reversed(network.plugins):
            self._ask("DEL", network, plugin, call.container, told, netns=call.told).succeeded()
        with self._lock:
            self.living.pop((call.network, call.container), None)

    def _collect(self, network: Network, keep: Collection[str]) -> None:
        valid = [{"containerID": container, "ifname": network.ifname} for container in keep]
        for plugin in network.plugins:
            more = {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
            self._ask("GC", network, {**plugin, **more}).succeeded()
        for key in [key for key in self.living if key[0] == network.name and key[1] not in keep]:
            del self.living[key]

    def _end_pod(self, container: str) -> None:
        if (pod := self.pods.pop(container, None)) is not None:
            self.served.host.remove(pod)
        for key in [key for key in self.living if key[1] == container]:
            self.dead_ports.add(self.living.pop(key).port)

    def _ask(
        self,
        command: str,
        network: Network,
        plugin: Json,
        container: str = "",
        previous: Json | None = None,
        port: int = 0,
        *,
        netns: bool = True,
    ) -> Outcome:
        conf: Json = {**plugin, "name": network.name, "cniVersion": VERSION}
        if port and plugin["type"] == "portmap":
            conf["runtimeConfig"] = {"portMappings": [{"hostPort": port, "containerPort": POD_PORT, "protocol": "tcp"}]}
        if previous is not None:
            conf["prevResult"] = previous
        pod = self.pods.get(container)
        path = str(pod.path) if pod is not None and netns else ""
        about = Attachment(container, path, network.ifname) if container else None
        return self.served.host.call(plugin["type"], command, conf, about)

    def expected(self) -> dict[str, Any]:
        """What a server that has just started should leave."""
        return {
            "records": {record for (name, container), it in self.living.items() for record in _records(name, container, it)},
            "veths": {_veth(name, container): "cni0" if name == BRIDGED.name else "" for name, container in self.living},
            "claims": {ip.partition("/")[0]: f"{container} {NETWORKS[name].ifname}"
                       for (name, container), it in self.living.items() for ip in ips(it.result)},
            "kept": {container for name, container in self.living if name == BRIDGED.name},
            "elements": {element for it in self.living.values() for element in _elements(it)},
            "pods": {container: self._inside(container) for container in self.pods},
        }  # fmt: skip

    def _inside(self, container: str) -> dict[str, set[str]]:
        attached = {NETWORKS[name].ifname: set(ips(it.result)) for (name, of), it in self.living.items() if of == container}
        return {"lo": set(), **attached}

    def seen(self) -> dict[str, Any]:
        host = self.served.host
        inside = {
            container: {name: pod.addresses(name) if name != "lo" else set() for name in pod.links()}
            for container, pod in self.pods.items()
        }
        return {
            "records": cni_held.records(host),
            "veths": cni_held.veths(host),
            "claims": {ip: text for name in NETWORKS for ip, text in cni_held.claims(host, name).items()},
            "kept": set(host.files(cni_held.FLANNEL)),
            "elements": cni_held.elements(host),
            "pods": inside,
        }

    def settle(self) -> None:
        """A new server looks when the kernel has done with the dead, and then everything is as it should be."""
        expected = self.expected()
        _await(lambda: cni_held.veths(self.served.host).keys() <= expected["veths"].keys())
        self.served.kill()
        self.served.start()
        _await(lambda: self.seen() == expected)
        seen = self.seen()
        for what, wanted in expected.items():
            assert seen[what] == wanted, f"{what}: seen {seen[what]}, expected {wanted}"
        assert not self.served.faults(), self.served.faults()


def _await(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + SETTLE_S
    while not is_so() and time.monotonic() < give_up_at:
        time.sleep(0.02)


def _veth(network: str, container: str) -> str:
    return host_name(Key(network, container, NETWORKS[network].ifname))


def _records(network: str, container: str, attached: Attached) -> set[tuple[str, str, str, str, str]]:
    plugins = {"ptp", "host-local"} if network == ROUTED.name else {"flannel", "bridge", "host-local"}
    plugins |= {"portmap"} if attached.port else set()
    return {(network, container, NETWORKS[network].ifname, plugin, "made") for plugin in plugins}


def _elements(attached: Attached) -> set[tuple[str, str, str]]:
    """In words of nft."""
    found = set()
    for ip in map(ip_interface, ips(attached.result)):
        near = (f"near{ip.version}", f"{ip.network} . {ip.network}", "")
        found |= {(f"masqueraded{ip.version}", str(ip.ip), ""), near}
        if attached.port:
            found.add((f"ports{ip.version}", f"tcp . {attached.port}", f"{ip.ip} . {POD_PORT}"))
            found.add((f"hairpin{ip.version}", str(ip.ip), ""))
    return found
