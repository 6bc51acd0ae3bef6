"""The engine as a daemon keeps it: what is opened is closed, what goes wrong is an error that the daemon knows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cni import service as module
from cni.ledger import Ledger
from cni.node import Node
from cni.pod_mtu import PodMtu
from cni.service import JOURNAL, Service, ServiceError
from cni.spec import CniError, Code
from flanneld import FlanneldError, cni_server


def test_it_answers_calls_of_every_plugin_by_name(tmp_path: Path) -> None:
    with Service(tmp_path / "journal", tmp_path / "subnet.env", lasting=False) as service:
        answer = service.answer("bridge", {"CNI_COMMAND": "VERSION"}, b"", None)
        assert json.loads(answer.stdout)["cniVersion"] == "1.1.0"
        assert service.answer("nothing", {"CNI_COMMAND": "STATUS"}, b'{"cniVersion": "1.1.0", "name": "n"}', None).exit_code == 1


def test_closed_it_leaves_no_descriptor_and_no_lock(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for lasting in (False, True):
        with Service(tmp_path / "journal", tmp_path / "subnet.env", lasting=lasting, patience_s=0):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_cannot_begin_leaves_the_journal_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise FlanneldError("no netlink")

    with monkeypatch.context() as patch:
        patch.setattr(module, "Undertaker", fail)
        with pytest.raises(FlanneldError, match="no netlink"):
            Service(tmp_path / "journal", tmp_path / "subnet.env")
    with Ledger(tmp_path / "journal"):
        pass


def test_a_packet_table_that_cannot_be_is_an_error_of_the_daemons_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(node: Node) -> int:
        raise CniError(Code.FAILED, "the kernel offers no nftables")

    monkeypatch.setattr(Node, "reconcile", fail)
    service = Service(tmp_path / "journal", tmp_path / "subnet.env", lasting=False)
    with service, pytest.raises(ServiceError, match="the kernel offers no nftables"):
        service.reconcile()


def test_pods_follow_their_mtu_whatever_the_packet_table_is_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(node: Node) -> int:
        raise CniError(Code.FAILED, "the kernel offers no nftables")

    followed: list[str] = []
    monkeypatch.setattr(Node, "reconcile", fail)
    monkeypatch.setattr(PodMtu, "follow", lambda _: followed.append("pods"))
    service = Service(tmp_path / "journal", tmp_path / "subnet.env", lasting=False)
    with service, pytest.raises(ServiceError):
        service.reconcile()
    assert followed == ["pods"]


def test_the_daemon_and_the_stand_in_look_for_one_journal() -> None:
    assert JOURNAL == cni_server.JOURNAL
