"""Which elements of the packet table stand for a pod's masquerading and for its port's protection: pure; must not know nftables."""

from __future__ import annotations

from cni.ledger import HeldElement
from cni.result import Result


def masquerade_elements(result: Result) -> tuple[HeldElement, ...]:
    """What makes packets from the pod to outside of its own network leave with the host's address."""
    return ()


def spoof_elements(port: str, mac: str) -> tuple[HeldElement, ...]:
    """What drops frames that enter a bridge's port with another source MAC than this one."""
    return ()
