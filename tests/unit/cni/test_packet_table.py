"""The packet table on a kernel that cannot have one; the rest is in tests/netns."""

from __future__ import annotations

import errno
from typing import NoReturn

import pytest

from cni.ledger import HeldElement
from cni.packet_table import PacketTable
from cni.spec import CniError, Code
from flanneld.linux import netlink

WEB = HeldElement("ports4", "tcp . 8080", "10.1.1.2 . 80")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> PacketTable:
    def refuse(_: int) -> NoReturn:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(netlink, "_open", refuse)
    return PacketTable()


def test_without_nftables_nothing_can_be_put_or_found(table: PacketTable) -> None:
    for ask in (lambda: table.put([WEB]), lambda: table.missing([WEB]), table.reconcile):
        with pytest.raises(CniError, match="the kernel offers no nftables") as error:
            ask()
        assert error.value.code == Code.FAILED


def test_without_nftables_the_node_is_not_ready_for_pods_that_need_them(table: PacketTable) -> None:
    with pytest.raises(CniError) as error:
        table.probe()
    assert error.value.code == Code.NOT_AVAILABLE


def test_without_nftables_a_pod_still_goes(table: PacketTable) -> None:
    table.take([WEB, HeldElement("of a later version", "x")])
    table.take([])
    table.put([])
    table.close()
