"""The kernel's settings that decide whether a host forwards; pure, but for one function that reads a setting."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

from flanneld.lease import Family
from tartan.checks.finding import Finding, error, ok, warning

Setting: TypeAlias = Callable[[str], str | None]
"""The value under a path as sysctl(8) names it, None where there is none."""
FORWARDING: dict[Family, str] = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
BRIDGED: dict[Family, str] = {4: "net.bridge.bridge-nf-call-iptables", 6: "net.bridge.bridge-nf-call-ip6tables"}
STRICT = 1


def setting(name: str) -> str | None:
    """What the kernel says; a dot in an interface's name is written as a slash."""
    path = Path("/proc/sys", *(part.replace("/", ".") for part in name.split(".")))
    try:
        return path.read_text().strip()
    except OSError:
        return None


def check_forwarding(families: Collection[Family], read: Setting = setting) -> list[Finding]:
    """A host that does not forward has pods that reach nobody."""
    off = [FORWARDING[family] for family in families if read(FORWARDING[family]) == "0"]
    if not off:
        return [ok("host", "forwards packets")]
    why, remedy = "is 0: no packet of a pod is forwarded", "=1, and in a file in /etc/sysctl.d"
    return [error("host", f"{name} {why}", f"sysctl {name}", f"sysctl -w {name}{remedy}") for name in off]


def check_rp_filter(devices: Collection[str], read: Setting = setting) -> list[Finding]:
    """Strict checks of the way back drop packets where peers send by another device than we do: with two or more in use."""
    strict = [name for name in devices if mode(name, read) == STRICT]
    if not strict or len(set(devices)) < 2:
        return [ok("host", "drops no packet for its way back")]
    names = " ".join(sorted(strict))
    why = f"rp_filter is strict on {names}, and peers are reached by several devices: what a peer sends by another one is dropped"
    commands = "; ".join(f"sysctl -w net.ipv4.conf.{name.replace('.', '/')}.rp_filter=2" for name in sorted(strict))
    return [warning("host", why, "sysctl -a -r rp_filter", commands)]


def mode(device: str, read: Setting = setting) -> int:
    """The kernel takes the larger of the device's and that of `all` (ip-sysctl.rst)."""
    values = (read(f"net.ipv4.conf.{name.replace('.', '/')}.rp_filter") for name in ("all", device))
    return max(int(value) if value and value.isdigit() else 0 for value in values)


def check_bridged(families: Collection[Family], *, services: bool, read: Setting = setting) -> list[Finding]:
    """kube-proxy's rules see packets between pods of one host only with br_netfilter."""
    off = [BRIDGED[family] for family in families if read(BRIDGED[family]) != "1"]
    if not off or not services:
        return [ok("host", "br_netfilter is " + ("not needed" if off else "on"))]
    why = f"{' '.join(off)} is not 1: a Kubernetes service does not answer a pod when the pod behind it is on the same host"
    return [warning("host", why, f"sysctl {off[0]}", "modprobe br_netfilter; " + "; ".join(f"sysctl -w {name}=1" for name in off))]
