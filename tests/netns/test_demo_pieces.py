from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from lab.demo import proofs, traffic
from lab.demo.proofs import PROOFS, Unproven
from lab.lab import Lab
from lab.state import lab_names
from lab.topology import generate

FIND = {proof.title: proof.find for proof in PROOFS}
DEMO = (sys.executable, "-m", "lab.demo", "host-gw")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(generate(2, backend="host-gw"), name=f"proofs-{os.getpid()}") as up:
        yield up


@pytest.fixture
def spoil(lab: Lab) -> Iterator[Callable[[str, str], object]]:
    """Add a chain and a rule on the first host."""

    def add(hook: str, rule: str) -> None:
        lab.hosts[0].run(["nft", f"add chain ip spoiled chain1 {{ type {hook}; }}; add rule ip spoiled chain1 {rule}"])

    lab.hosts[0].run(["nft", "add table ip spoiled"])
    yield add
    lab.hosts[0].run(["nft", "delete table ip spoiled"])


def test_a_lab_that_works_passes_every_proof(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "STREAM_S", 0.2)
    assert [title for title, find in FIND.items() if not find(lab)] == []


def test_a_lost_connection_is_said_with_both_ends(
    lab: Lab, spoil: Callable[[str, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "PATIENCE_S", 0.2)
    spoil("filter hook forward priority 0", "tcp dport 80 drop")
    with pytest.raises(Unproven, match="p1@h1 -> p1@h2: timed out"):
        FIND["HTTP between all pods: 8 MB, SHA-256 right"](lab)


def test_masquerading_between_pods_is_noticed(lab: Lab, spoil: Callable[[str, str], object]) -> None:
    spoil("nat hook postrouting priority 0", "oifname eth0 masquerade")  # before flanneld's
    with pytest.raises(Unproven, match=r"source: 10\.0\.0\.11, expected 10\.244\."):
        FIND["pods see each other's own addresses"](lab)


def test_a_way_from_the_outside_to_pods_is_noticed(lab: Lab) -> None:
    route = ["10.244.0.0/16", "dev", "eth0"]
    lab.outside.run(["ip", "route", "add", *route])
    try:
        with pytest.raises(Unproven, match=r"outside: a route to 10\.244.*: True, expected False"):
            FIND["each pod to the outside, seen as its host"](lab)
    finally:
        lab.outside.run(["ip", "route", "delete", *route])


def test_ctrl_c_twice_ends_the_demo_with_nothing_left() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        for _ in range(2):
            demo.send_signal(signal.SIGINT)
            time.sleep(0.02)
    assert demo.returncode == 128 + signal.SIGINT
    assert f"demo-{demo.pid}" not in lab_names()
