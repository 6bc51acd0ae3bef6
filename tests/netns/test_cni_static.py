from __future__ import annotations

from pathlib import Path

import pytest

from cni.spec import CniError, Code
from cni_node import cni_node
from scratch_netns import scratch_netns

ADDRESSES = [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "fd00::3/64"}]
IPAM = {"type": "static", "addresses": ADDRESSES, "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["192.0.2.53"]}}
STATIC = {"type": "static", "ipam": IPAM}


def test_add_check_and_del_go_together(tmp_path: Path) -> None:
    with cni_node(tmp_path) as node, scratch_netns() as pod:
        result = node.add(STATIC, pod)
        assert [str(ip.address) for ip in result.ips] == ["10.1.2.3/24", "fd00::3/64"]
        node.check(STATIC, pod, result)
        node.delete(STATIC, pod, result)
        node.delete(STATIC)
        node.status(STATIC)
        node.gc(STATIC)
        assert node.ledger.records() == []


def test_check_sees_an_address_that_the_attachment_has_not(tmp_path: Path) -> None:
    with cni_node(tmp_path) as node, scratch_netns() as pod:
        result = node.add(STATIC, pod)
        other = {"type": "static", "ipam": {"type": "static", "addresses": [{"address": "10.1.2.4/24"}]}}
        with pytest.raises(CniError, match=r"10\.1\.2\.4/24"):
            node.check(other, pod, result)


def test_del_does_not_mind_what_the_configuration_says(tmp_path: Path) -> None:
    with cni_node(tmp_path) as node:
        node.delete({"type": "static", "ipam": {"addresses": "junk"}})
        with pytest.raises(CniError) as refused:
            node.status({"type": "static", "ipam": {"addresses": "junk"}})
        assert refused.value.code == Code.INVALID_CONFIG
