"""All that our plugins hold on a host, as it really is: journal, links, files, packet filter; must not know who should hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cni.ledger import read_ledger
from cni_ours import STATE
from cni_world import CniHost

NETWORKS = "/var/lib/cni/networks"
FLANNEL = "/var/lib/cni/flannel"
TABLE = "tartan-cni"


def records(host: CniHost) -> set[tuple[str, str, str, str, str]]:
    """Network, container, interface, plugin, state."""
    return {
        (record.key.network, record.key.container_id, record.key.ifname, record.plugin, str(record.state))
        for record in host.place.call(read_ledger, STATE)
    }


def veths(host: CniHost) -> dict[str, str]:
    """The bridge that each is in; empty for none."""
    return {name: link.get("master", "") for name, link in host.links().items() if name.startswith("veth")}


def claims(host: CniHost, network: str) -> dict[str, str]:
    """Container and interface by address: host-local's files."""
    found = host.files(f"{NETWORKS}/{network}")
    return {ip: " ".join(text.split()) for ip, text in found.items() if not ip.startswith("last_reserved_ip")}


def elements(host: CniHost) -> set[tuple[str, str, str]]:
    """Set, key and value of all that is in our tables, in nft's words; an interval as its network."""
    listed = json.loads(host.place.run(["nft", "--json", "list", "ruleset"]).stdout)["nftables"]
    sets = [each.get("set") or each.get("map") for each in listed]
    found = set()
    for each in filter(None, sets):
        if str(each["table"]).startswith(TABLE):
            for element in each.get("elem", ()):
                key, value = element if "map" in each and isinstance(element, list) else (element, "")
                found.add((each["name"], _words(key), _words(value) if value else ""))
    return found


def _words(told: Any) -> str:
    match told:
        case {"concat": parts}:
            return " . ".join(map(_words, parts))
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"elem": {"val": value}}:
            return _words(value)
        case _:
            return str(told)


def everything(host: CniHost) -> dict[str, object]:
    """For a host that should be as it was before: compare two of these. Leaves out what stays for the next pod."""
    return {
        "records": records(host),
        "links": set(host.links()) - {"cni0"},
        "elements": elements(host),
        "files": host.place.call(_files),
    }


def _files() -> set[str]:
    roots = [Path("/var/lib"), Path("/run")]
    found = {str(path) for root in roots for path in root.rglob("*") if path.is_file() and "last_reserved_ip" not in path.name}
    return {path for path in found if not path.startswith((str(STATE.parent), "/run/cni-bin", "/run/netns"))}
