from __future__ import annotations

from typing import Any

import pytest

from cni import bandwidth
from cni.bandwidth import Bandwidth, Limit, ifb_name
from cni.ledger import Key
from cni.spec import CniError, Code, Command
from cni_node import request
from flanneld.linux.tc import TokenBucket

INGRESS: dict[str, Any] = {"ingressRate": 8000, "ingressBurst": 80000}


def parsed(runtime: dict[str, Any] | None = None, **keys: Any) -> Bandwidth:
    supplied = {"runtimeConfig": {"bandwidth": runtime}} if runtime is not None else {}
    return bandwidth.parse(request(Command.ADD, {"type": "bandwidth", **keys, **supplied}))


def test_each_direction_has_a_limit_of_its_own() -> None:
    assert parsed() == Bandwidth(None, None)
    assert parsed(**INGRESS) == Bandwidth(Limit(8000, 80000), None)
    assert parsed(egressRate=8, egressBurst=9) == Bandwidth(None, Limit(8, 9))


def test_the_runtimes_limits_are_for_a_configuration_without() -> None:
    runtime = {"egressRate": 16000, "egressBurst": 80000}
    assert parsed(runtime) == Bandwidth(None, Limit(16000, 80000))
    assert parsed(runtime, **INGRESS) == Bandwidth(Limit(8000, 80000), None)
    assert parsed(runtime, ingressRate=0, ingressBurst=0) == Bandwidth(None, None)
    assert parsed(runtime, ingressRate=None) == Bandwidth(None, Limit(16000, 80000))


def test_what_containerd_1_6_sends_is_understood() -> None:
    runtime = {"IngressRate": 10_000_000, "IngressBurst": 2**32 - 1, "EgressRate": 0, "EgressBurst": 0}
    assert parsed(runtime) == Bandwidth(Limit(10_000_000, 2**32 - 1), None)
    assert parsed({}) == Bandwidth(None, None)


@pytest.mark.parametrize(
    ("keys", "gist"),
    [
        ({"ingressRate": 8000}, "if rate is set, burst must also be set"),
        ({"ingressBurst": 8000}, "if burst is set, rate must also be set"),
        ({"egressRate": 8000, "egressBurst": 8 * (2**32 - 1)}, "egressBurst.*burst cannot be more than 4GB"),
        ({"egressRate": -1, "egressBurst": 8}, "egressRate: got -1"),
        ({"egressRate": 8.5, "egressBurst": 8}, "egressRate: got 8.5"),
        ({"egressRate": 7, "egressBurst": 8}, "egressRate: got 7"),
        ({"egressRate": "8000", "egressBurst": 8}, "egressRate"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(keys: dict[str, Any], gist: str) -> None:
    for given in ({"runtime": keys}, keys):
        with pytest.raises(CniError, match=gist) as refused:
            parsed(**given)
        assert refused.value.code == Code.INVALID_CONFIG


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(CniError, match="unshapedSubnets") as refused:
        parsed(**INGRESS, unshapedSubnets=["10.0.0.0/8"])
    assert refused.value.code == Code.UNSUPPORTED_FIELD


def test_bits_become_bytes_and_a_frame_always_fits() -> None:
    assert Limit(8_000_000, 80_000).bucket(1500) == TokenBucket(1_000_000, 10_000)
    assert Limit(16, 8).bucket(1500) == TokenBucket(2, 1518)


def test_ifb_names_are_an_attachments_own_and_fit() -> None:
    names = {ifb_name(Key(net, container, ifname)) for net in "ab" for container in "cd" for ifname in ("eth0", "net1")}
    assert len(names) == 8
    assert all(len(name) == 15 for name in names)
