"""The hosts of a soak, and all that was done to them: what faults act on, and what says whether they are well again."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flanneld_world import NETWORK, PREFIX, Flanneld, World, eventually, own_subnet, run, show, write_file
from lab import LabError
from lab.etcd import start_etcd
from lab.lab import Lab
from lab.pods import SUBNET_FILE, Pod
from soak_look import Place, leases_in, seen
from soak_model import VNI, differing, expected_subnet_env, wanted, wrong_leases

BOUND_S = 20.0
"""For a host to be as it should be; subnet.env is looked at every 5 s."""
RETIRING_S = 20.0
"""For the device of a backend, a VNI or a port that nobody speaks any more to go; it takes 10 s."""
AGAIN_S = 0.05
MEMORY = Path("/run/flannel/subnet.env.memory")
"""What a daemon knows of its former runs, beside what it tells others."""


@dataclass
class Convergence:
    """How long it took until all hosts were as they should be."""

    took_s: float
    last: str = ""
    """What was waited for last."""
    wrong: list[str] = field(default_factory=list)
    """What was not there when the time was over."""


@dataclass
class Soak:
    """The world, and what has been done to it."""

    world: World
    rng: random.Random
    daemons: dict[str, Flanneld]
    places: dict[str, Place]
    etcd: subprocess.Popen[str]
    pods: dict[str, Pod] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(NETWORK)))
    subnets: dict[str, str] = field(default_factory=dict)
    backends: set[str] = field(default_factory=set)
    """Those that carried packets during the fault that is under way."""
    guests: set[str] = field(default_factory=set)
    """Subnets of hosts that do not exist, leased just now."""
    reserved: set[str] = field(default_factory=set)
    """Subnets whose keys an administrator has written: such a key never expires."""
    exchanged_at: float = 0.0
    """When the config was last changed."""
    meanwhile: list[Callable[[], None]] = field(default_factory=list)
    """Faults to come in the middle of the one that is under way."""
    stages: list[Convergence] = field(default_factory=list)
    """What `settle` saw within the fault that is under way."""
    found: list[str] = field(default_factory=list)
    """What was wrong within it."""

    @property
    def lab(self) -> Lab:
        return self.world.lab

    def any_place(self) -> Place:
        return self.rng.choice(list(self.places.values()))

    @property
    def kind(self) -> str:
        return str(self.config["Backend"]["Type"])

    @property
    def device(self) -> str:
        """What the backend has of its own; "" for none."""
        return {"vxlan": f"flannel.{self.config['Backend'].get('VNI', VNI)}", "udp": "flannel0"}.get(self.kind, "")

    def subnet_of(self, place: Place) -> str:
        return self.subnets[place.host.name]

    def key_of(self, place: Place) -> str:
        return f"{PREFIX}/subnets/{self.subnet_of(place)}-24"

    def configure(self, **changes: object) -> None:
        self.config = {**self.config, **changes}
        self.backends.add(self.kind)
        self.exchanged_at = time.monotonic()
        self.world.configure(self.config)

    def peer_route(self, place: Place) -> str:
        """The subnet of another host."""
        others = [subnet for name, subnet in self.subnets.items() if name != place.host.name]
        return f"{self.rng.choice(others)}/24"

    def start(self, place: Place) -> None:
        self.daemons[place.host.name] = self.world.start(place.host.name, f"--iface={place.uplink}")

    def start_etcd(self) -> None:
        self.etcd = start_etcd(self.lab.fabric, self.lab.etcd_url, self.lab.directory / "fabric")
        eventually(self._answers, "etcd")

    def end_etcd(self) -> None:
        self.etcd.kill()
        self.etcd.wait()

    def _answers(self) -> bool:
        try:
            self.world.etcd.keys()
        except (OSError, AssertionError):
            return False
        return True

    def pause(self, low_s: float, high_s: float) -> None:
        """The time that a fault lasts; others may come in the middle of it."""
        lasting = self.rng.uniform(low_s, high_s)
        until = time.monotonic() + lasting
        while self.meanwhile:
            time.sleep(lasting / 3)
            self.meanwhile.pop(0)()
        time.sleep(max(0.0, until - time.monotonic()))

    def settle(self) -> None:
        """Within a fault: wait until all hosts follow what was done so far."""
        self.stages.append(self.converge())
        self.found += self.stages[-1].wrong

    def converge(self, bound_s: float = BOUND_S) -> Convergence:
        """Wait until all hosts are as they should be."""
        began, last = time.monotonic(), ""
        pending = list(self.places.values())
        while True:
            present = {place.host.name: self.wrong(place) for place in pending}
            took_s = time.monotonic() - began
            pending = [place for place in pending if present[place.host.name]]
            if not pending and not (present := {"etcd": self.wrong_leases()})["etcd"]:
                return Convergence(took_s, last)
            lines = [f"{name}: {line}" for name, found in present.items() for line in found]
            if took_s > bound_s:
                return Convergence(took_s, last, lines)
            last = lines[0]
            time.sleep(AGAIN_S)

    def wrong_now(self) -> list[str]:
        """What is not as it should be on any host at this moment."""
        return [f"{place.host.name}: {line}" for place in self.places.values() for line in self.wrong(place)] + self.wrong_leases()

    def wrong_leases(self) -> list[str]:
        owners = {self.subnet_of(place): place.ip for place in self.places.values()}
        return wrong_leases(leases_in(self.world), owners, self.guests, self.reserved)

    def wrong(self, place: Place) -> list[str]:
        """What is wrong on the host; what cannot be looked at just now is wrong too."""
        try:
            leases = leases_in(self.world)
            expected = wanted(place.standing(self.subnet_of(place)), self.config, leases)
            present = dict(seen(place, leases, self.subnet_of(place)))
        except (LabError, OSError) as error:
            return [f"cannot be looked at: {error}"]
        if time.monotonic() - self.exchanged_at < RETIRING_S:
            present["devices"] = _without_others(present["devices"], expected["devices"])
        return differing(present, expected)

    def learn_subnets(self) -> None:
        self.subnets = {name: own_subnet(place.host) for name, place in self.places.items()}

    def mend(self) -> None:
        """Bring all hosts back to where they should be, by force, so that one wrong state does not make all that follows wrong."""
        for one in self.daemons.values():
            one.process.kill()
            one.process.wait()
        self.world.etcd.delete(f"{PREFIX}/subnets/")
        self.configure()
        for place in self.places.values():
            text = expected_subnet_env(place.standing(self.subnet_of(place)), self.config)
            place.host.call(MEMORY.unlink, missing_ok=True)
            for name in [link["ifname"] for link in show(place.host, "ip link") if link["ifname"].startswith("flannel")]:
                run(place.host, f"ip link del {name}", check=False)
            write_file(place.host, SUBNET_FILE, text)
            self.start(place)
        for one in self.daemons.values():
            one.ready()
        for place in self.places.values():  # another owner's route to it may have taken the bridge's place
            subnet = self.subnet_of(place)
            run(place.host, f"ip route replace {subnet}/24 dev cni0 src {subnet[:-1]}1 proto kernel scope link")


def _without_others(present: frozenset[str], expected: frozenset[str]) -> frozenset[str]:
    """The facts about devices that should be there, without those about devices that may still be."""
    names = {fact.split()[0] for fact in expected}
    return frozenset(fact for fact in present if fact.split()[0] in names)
