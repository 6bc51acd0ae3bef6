"""Firewall rules of flanneld and Go flannel, in nftables and in both kinds of iptables; must not know what they are for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from flanneld.firewall.iptables import LOCK_WAIT_S, PROGRAM, Place, parse_save, repair
from flanneld.lease import FAMILIES, Family
from flanneld.linux.message import Message, attributes, string
from flanneld.linux.netlink import Netlink
from flanneld.linux.nft import (
    NETLINK_NETFILTER,
    NFGENMSG_SIZE,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO,
    NFT_MSG_GETTABLE,
    NFTA_TABLE,
    Nft,
    NftMissing,
)
from flanneld.masquerade import Chain, FirewallError
from tartan.leftovers import Leftover

TABLE: dict[Family, str] = {4: "ip", 6: "ip6"}
OUR_TABLE = r"flannel-ipv{family}(-\w{{1,12}})?"
"""The instance, after the last hyphen, tells the daemons of one host apart."""
OUR_CHAIN = re.compile(r"FLANNEL-(POSTRTG|FWD)(-\w{1,12})?")
COMMENTS = tuple(f'--comment "{chain.value}"' for chain in Chain)
"""Earlier releases of Go flannel put rules with these straight into the built-in chains."""
VARIANTS = ("-legacy", "-nft")


def nft_tables() -> Iterator[Leftover]:
    """The tables that are flannel's by name."""
    try:
        nft = Nft()
    except NftMissing:
        return
    for family in FAMILIES:
        for name in table_names(NFPROTO[family]):
            if re.fullmatch(OUR_TABLE.format(family=family), name):
                table = {"table": {"family": TABLE[family], "name": name}}
                # Added first, so that deleting succeeds when somebody else was quicker.
                remove = partial(nft.run, [{"add": table}, {"delete": table}])
                yield Leftover(f"nftables table {TABLE[family]} {name}", remove)


def table_names(family: int) -> list[str]:
    """Of all nftables tables of a family (NFPROTO_*)."""
    with Netlink(NETLINK_NETFILTER) as nl:
        found = nl.dump(Message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, bytes([family, 0, 0, 0])))
    return [string(attributes(message.body, NFGENMSG_SIZE).get(NFTA_TABLE)) for message in found if message.body[0] == family]


def iptables_chains() -> Iterator[Leftover]:
    """The chains that are flannel's by name, with every jump to them, and rules that carry flannel's comments."""
    for program in programs():
        for table, saved in saved_tables(program).items():
            for chain in our_chains(saved):
                words = f"{program}: chain {chain} in table {table}, with the jumps to it"
                yield Leftover(words, partial(_restore, program, table, partial(removal, chain=chain)))
            if lines := stray(saved):
                words = f"{program}: rules in table {table}, outside of flannel's chains ({len(lines)})"
                yield Leftover(words, partial(_restore, program, table, stray), "flannel's comments on them")


def programs() -> list[str]:
    """The iptables programs to ask: both variants where both exist."""
    found = []
    for program in PROGRAM.values():
        variants = [f"{program}{variant}" for variant in VARIANTS if shutil.which(f"{program}{variant}-save")]
        found += variants or [name for name in (program,) if shutil.which(f"{name}-save")]
    return found


def saved_tables(program: str) -> dict[str, list[str]]:
    """By table, the chains and rules that a program shows; raises FirewallError. A kernel without IPv6 has none of that."""
    try:
        return parse_save(run(f"{program}-save"))
    except FirewallError:
        if program.startswith(PROGRAM[6]):
            return {}
        raise


def our_chains(saved: Sequence[str]) -> list[str]:
    """The chains of one table that are flannel's."""
    names = [line[1:].split(" ", 1)[0] for line in saved if line.startswith(":")]
    return [name for name in names if OUR_CHAIN.fullmatch(name)]


def removal(saved: Sequence[str], chain: str) -> list[str]:
    """The iptables-restore lines that take a chain and all jumps to it out of its table."""
    return repair(saved, Place("", "", chain, ""), [])


def stray(saved: Sequence[str]) -> list[str]:
    """The same for the rules with flannel's comments that neither are in a chain of flannel's nor lead to one."""
    chains = set(our_chains(saved))
    marked = [line for line in saved if line.startswith("-A ") and any(comment in line for comment in COMMENTS)]
    return ["-D" + line.removeprefix("-A") for line in marked if not chains & {line.split()[1], line.split()[-1]}]


def _restore(program: str, table: str, lines: Callable[[Sequence[str]], list[str]]) -> None:
    """From what the table is now: the rules may have changed since they were listed."""
    commands = lines(parse_save(run(f"{program}-save", "-t", table)).get(table, ()))
    if commands:
        run(f"{program}-restore", "--noflush", f"--wait={LOCK_WAIT_S}", given="\n".join([f"*{table}", *commands, "COMMIT", ""]))


def run(*command: str, given: str = "") -> str:
    """What a program of iptables prints; raises FirewallError."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FirewallError(f"{command[0]} ended with status {done.returncode}: {' '.join(done.stderr.split())}")
    return done.stdout
