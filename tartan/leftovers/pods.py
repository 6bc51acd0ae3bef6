"""What the CNI plugins made for pods of flannel's networks: attachments, the bridge, packet filter tables, addresses.

Whatever the ledger knows is let go of by the ledger; the rest is what the reference plugins keep in the same places.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from cni.conflist import DIRECTORY, ConflistError, read_conflist
from cni.flannel import DATA_DIR
from cni.ledger import HeldAddress, Record, read_ledger
from cni.packet_rules import TABLES
from cni.service import JOURNAL, Service
from flanneld.linux.links import link, remove_link
from flanneld.linux.netlink import Netlink
from flanneld.linux.nft import Nft
from tartan.leftovers import Leftover
from tartan.leftovers.rules import table_names

BRIDGE = "cni0"
"""Unless a configuration says otherwise, and then the bridge is its author's."""
NETWORKS = Path("/var/lib/cni/networks")
"""host-local's directory: one in it for each network, named like it."""
STATE = JOURNAL.parent
FAMILY_WORDS = {1: "inet", 7: "bridge"}


def pods(nl: Netlink, conf_dir: Path = Path(DIRECTORY)) -> Iterator[Leftover]:
    """In the order in which they can go. What plugins hold for other networks than flannel's stays."""
    records = read_ledger(JOURNAL) if JOURNAL.exists() else []
    networks = network_names(records, conf_dir)
    ours = [record for record in records if record.key.network in networks]
    if keys := {record.key for record in ours}:
        yield Leftover(f"attachments of pods ({len(keys)}), with their interfaces and addresses", partial(release_all, networks))
    found = link(nl, BRIDGE)
    if found is not None and found.kind == "bridge":
        yield Leftover(f"bridge {BRIDGE}, which every pod here is attached to", partial(remove_link, nl, BRIDGE))
    shared = {STATE} if ours == records else set()
    if shared:
        for family, name in TABLES:
            if name in table_names(family):
                words = FAMILY_WORDS[family]
                yield Leftover(f"nftables table {words} {name}", partial(_delete_table, words, name))
    pools = {Path(address.pool) for record in ours for address in record.of(HeldAddress)}
    for directory in sorted({Path(DATA_DIR), *shared, *pools, *(NETWORKS / name for name in networks)}):
        if directory.is_dir():
            yield Leftover(f"directory {directory}", partial(shutil.rmtree, directory, ignore_errors=True))


def network_names(records: list[Record], conf_dir: Path) -> set[str]:
    """The CNI networks that flannel serves: by what it keeps for DEL, by the ledger, by the runtime's configuration."""
    names = {record.key.network for record in records if record.plugin == "flannel"}
    for kept in Path(DATA_DIR).glob("*"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            names.add(str(json.loads(kept.read_text())["name"]))
    for path in sorted(conf_dir.glob("*.conf*")):
        with suppress(ConflistError, OSError):
            network = read_conflist(path)
            names |= {network.name for plugin in network.plugins if plugin.type == "flannel"}
    return {name for name in names if name and "/" not in name and name not in (".", "..")}


def release_all(networks: Collection[str]) -> None:
    """Let go of everything that is held for pods of these networks, which lose their interfaces; raises CniError, JournalError."""
    with Service(JOURNAL, lasting=False) as service:
        for record in service.node.ledger.records():
            if record.key.network in networks:
                service.node.release(record)
        service.reconcile()


def _delete_table(family: str, name: str) -> None:
    table = {"table": {"family": family, "name": name}}
    Nft().run([{"add": table}, {"delete": table}])
