"""iptables' FORWARD chain made to let pass what our packet filter has marked; must not know pods.

What an nftables table accepts, another one may still drop (nft(8)), and Docker has iptables drop what it does not know. So one rule
of iptables, for all pods, accepts what our table has marked, after the administrator's own chain has been asked. On a host where
iptables filters nothing, nothing is done and no program is run.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from cni.packet_rules import PASSED
from cni.spec import CniError, Code
from flanneld.kernel import KernelError
from flanneld.lease import Family
from flanneld.linux.nft_elements import NftSocket

PROGRAM: dict[Family, str] = {4: "iptables", 6: "ip6tables"}
LEGACY_TABLES: dict[Family, str] = {4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names"}
CHAIN = "TARTAN-CNI"
JUMP = f'-m comment --comment "CNI firewall plugin rules" -j {CHAIN}'
LOCK_WAIT_S = 5
"""How long iptables-restore waits for the lock that the legacy programs share."""


def chain_rules(admin_chain: str) -> list[str]:
    """The rules of our chain, as iptables-save prints them."""
    return [
        f'-A {CHAIN} -m comment --comment "CNI firewall plugin admin overrides" -j {admin_chain}',
        f"-A {CHAIN} -m mark --mark {PASSED:#x}/{PASSED:#x} -j ACCEPT",
    ]


def open_forward(nft: NftSocket, family: Family, admin_chain: str) -> None:
    """Have iptables accept what is marked, if it is there; a second call runs no program. Raises CniError."""
    if variant := _unready(nft, family, admin_chain):
        saved = _run(family, variant, "save", "-t", "filter").splitlines()
        _restore(family, variant, repair(saved, admin_chain))


def is_open(nft: NftSocket, family: Family, admin_chain: str) -> bool:
    """Whether iptables lets what is marked pass, or is not there. Raises CniError."""
    variant = _unready(nft, family, admin_chain)
    return not variant or not repair(_run(family, variant, "save", "-t", "filter").splitlines(), admin_chain)


def close_forward(nft: NftSocket, family: Family) -> None:
    """Take our chain out of iptables again, if it is there; that of the administrator stays. Raises CniError."""
    if variant := _variant(nft, family, CHAIN):
        saved = _run(family, variant, "save", "-t", "filter").splitlines()
        if f":{CHAIN} - " in "\n".join(saved):
            jumps = [f"-D{line.removeprefix('-A')}" for line in saved if line.endswith(f" -j {CHAIN}")]
            _restore(family, variant, [f":{CHAIN} - [0:0]", *jumps, f"-X {CHAIN}"])


def repair(saved: list[str], admin_chain: str) -> list[str]:
    """The iptables-restore lines that make FORWARD begin with our chain; none when it is there already."""
    rules = chain_rules(admin_chain)
    jumps = [line for line in saved if line.endswith(f" -j {CHAIN}")]
    present = [line for line in saved if line.startswith(f"-A {CHAIN} ")]
    if present == rules and jumps == [f"-A FORWARD {JUMP}"]:
        return []
    exists = any(line.startswith(f":{admin_chain} ") for line in saved)
    # With --noflush a declaration empties a chain that exists: ours may be, the administrator's must not.
    return [
        f":{CHAIN} - [0:0]",
        *([] if exists else [f":{admin_chain} - [0:0]"]),
        *(f"-D{line.removeprefix('-A')}" for line in jumps),
        f"-I FORWARD 1 {JUMP}",
        *rules,
    ]


def _unready(nft: NftSocket, family: Family, admin_chain: str) -> str:
    """The kind of iptables that may not have our rules; empty when there is none."""
    whole = nft.chain_users(family, "filter", CHAIN) == len(chain_rules(admin_chain)) + 1  # with the jump to it
    return "" if whole else _variant(nft, family, "FORWARD", admin_chain)  # which may be there before FORWARD, as yet empty


def _variant(nft: NftSocket, family: Family, *chains: str) -> str:
    """Which of the two kinds of iptables is in use, and has one of the chains if it can be told cheaply; empty when none is."""
    with suppress(OSError):
        if "filter" in Path(LEGACY_TABLES[family]).read_text().split():
            return "legacy"
    try:
        return "nft" if any(nft.chain_users(family, "filter", chain) is not None for chain in chains) else ""
    except KernelError as error:
        raise CniError(Code.FAILED, "cannot look for iptables' FORWARD chain", str(error)) from error


def _restore(family: Family, variant: str, lines: list[str]) -> None:
    if lines:
        _run(family, variant, "restore", "--noflush", f"--wait={LOCK_WAIT_S}", given="\n".join(["*filter", *lines, "COMMIT", ""]))


def _run(family: Family, variant: str, verb: str, *options: str, given: str = "") -> str:
    names = (f"{PROGRAM[family]}-{variant}-{verb}", f"{PROGRAM[family]}-{verb}")
    program = next((name for name in names if shutil.which(name)), names[-1])
    try:
        done = subprocess.run([program, *options], input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CniError(
            Code.FAILED, f"{program} cannot be run, and iptables may drop what pods send", str(error.strerror)
        ) from error
    if done.returncode != 0:
        raise CniError(Code.FAILED, f"{program} ended with status {done.returncode}", " ".join(done.stderr.split()))
    return done.stdout
