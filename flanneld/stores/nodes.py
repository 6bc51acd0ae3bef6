"""Kubernetes' nodes as leases: flannel's annotations, read and written; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Any

from flanneld.lease import FAMILIES, Family, IPAddress, Lease, LeaseAttrs, Leases, Subnets
from flanneld.log import Log, Once
from flanneld.store import StoreError

log = Log(__name__)

PREFIX = re.compile(r"([a-z0-9_-]+\.)+[a-z0-9_-]+/([a-z0-9_-]+-)?")
SUFFIX: Mapping[Family, str] = {4: "", 6: "v6"}


def annotation_prefix(text: str) -> str:
    """What our annotations begin with: `fqdn/` or `fqdn/word-`; raises StoreError."""
    prefix = text if "/" in text else f"{text}/"
    prefix = prefix if prefix.endswith(("/", "-")) else f"{prefix}-"
    if not PREFIX.fullmatch(prefix):
        raise StoreError(f"kube-annotation-prefix {text!r}: expected a domain name, and maybe a slash and a word after it")
    return prefix


class NodeReader:
    """Turns nodes into leases, and names each one with garbage in it once."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._said = Once(log)

    def leases(self, nodes: Iterable[Mapping[str, Any]]) -> Leases:
        """Those of the nodes that run flannel."""
        found = [lease for node in nodes if (lease := self.lease(node)) is not None]
        return MappingProxyType({lease.subnets: lease for lease in found})

    def lease(self, node: Mapping[str, Any]) -> Lease | None:
        """The node's lease; None when it has none, or none that can be read."""
        notes = notes_of(node)
        name = node["metadata"]["name"]
        if notes.get(f"{self._prefix}kube-subnet-manager") != "true":
            return None
        try:
            subnets, attrs = pod_cidrs(node), self._attrs(notes)
        except ValueError as error:
            self._said.warning(name, "lease ignored", node=name, why=error)
            return None
        self._said.over(name)
        return Lease(subnets, attrs) if subnets else None

    def _attrs(self, notes: Mapping[str, str]) -> LeaseAttrs:
        texts = {family: notes.get(f"{self._prefix}public-ip{SUFFIX[family]}", "") for family in FAMILIES}
        data = {family: notes.get(f"{self._prefix}{_data_name(family)}", "null") for family in FAMILIES}
        public_ips = tuple(ip_address(text) for text in texts.values() if text)
        if not public_ips:
            raise ValueError("neither public-ip nor public-ipv6 is annotated")
        published = tuple((family, text) for family, text in data.items() if text not in ("", "null"))
        return LeaseAttrs(public_ips, notes.get(f"{self._prefix}backend-type", ""), published)

    def overwritten(self, notes: Mapping[str, str], attrs: LeaseAttrs) -> LeaseAttrs:
        """The attributes with the public IPs that the user has set instead of ours; raises StoreError."""
        public_ips: list[IPAddress] = []
        for ip in attrs.public_ips:
            text = notes.get(f"{self._prefix}public-ip{SUFFIX[4 if ip.version == 4 else 6]}-overwrite", "")
            try:
                public_ips.append(ip_address(text) if text else ip)
            except ValueError as error:
                raise StoreError(f"annotation public-ip-overwrite: {error}") from error
        return LeaseAttrs(tuple(public_ips), attrs.backend_type, attrs.backend_data)

    def wanted(self, attrs: LeaseAttrs) -> dict[str, str]:
        """The annotations that publish these attributes."""
        notes = {"kube-subnet-manager": "true", "backend-type": attrs.backend_type}
        for ip in attrs.public_ips:
            family: Family = 4 if ip.version == 4 else 6
            notes |= {_data_name(family): attrs.data(family) or "null", f"public-ip{SUFFIX[family]}": str(ip)}
        return {f"{self._prefix}{name}": text for name, text in notes.items()}


def _data_name(family: Family) -> str:
    return "backend-data" if family == 4 else "backend-v6-data"


def notes_of(node: Mapping[str, Any]) -> Mapping[str, str]:
    """The node's."""
    notes: Mapping[str, str] = node["metadata"].get("annotations") or {}
    return notes


def pod_cidrs(node: Mapping[str, Any]) -> Subnets:
    """The node's subnets, IPv4 first, () when none are assigned; raises ValueError."""
    spec = node.get("spec") or {}
    texts = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return tuple(sorted(map(ip_network, texts), key=lambda net: net.version))
