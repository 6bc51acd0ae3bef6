"""flanneld's flags: one table, which is also the `Options` they become; must not know what is done with them.

Names, defaults and FLANNELD_* variables are Go flannel's (its main.go). On purpose not flannel's: an unknown flag, an
argument that is no flag and a wrong variable are errors (exit 2); `--cni-...`, `--node-labels`, `--log-format` and `--dry-run` are
ours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from flanneld import goflags
from flanneld.goflags import Flag, HelpRequested, UndefinedFlag, UsageError
from flanneld.lease import Family, IPAddress

MINUTES_PER_LEASE = 24 * 60
INT_MAX = 2**31 - 1
ANY_ADDRESS: IPAddress = IPv4Address(0)

T = TypeVar("T")


def _text(default: str, usage: str, *, secret: bool = False) -> str:
    return field(default=default, repr=not secret, metadata={"flag": Flag(str, "string", usage)})


def _number(default: int, usage: str, low: int, high: int) -> int:
    return field(default=default, metadata={"flag": Flag(goflags.whole(low, high), "int", usage)})


def _switch(default: bool, usage: str) -> bool:
    return field(default=default, metadata={"flag": Flag(goflags.boolean, "", usage)})


def _value(read: Callable[[str], T], default: T, usage: str) -> T:
    return field(default=default, metadata={"flag": Flag(read, "string", usage)})


def _repeated(read: Callable[[str], T], usage: str) -> tuple[T, ...]:
    return field(default=(), metadata={"flag": Flag(read, "value", usage, repeats=True)})


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment say, checked; a field is the flag of that name."""

    etcd_endpoints: tuple[str, ...] = _value(
        goflags.endpoints, ("http://127.0.0.1:4001", "http://127.0.0.1:2379"), "comma list of etcd's endpoints"
    )
    etcd_prefix: str = _text("/coreos.com/network", "prefix of this network's keys in etcd")
    etcd_keyfile: str = _text("", "key of our client certificate for etcd, PEM; needs etcd-certfile")
    etcd_certfile: str = _text("", "our client certificate for etcd, PEM; needs etcd-keyfile")
    etcd_cafile: str = _text("", "certificates of the authorities that sign etcd's, PEM")
    etcd_username: str = _text("", "user name at etcd")
    etcd_password: str = _text("", "password at etcd", secret=True)
    iface: tuple[str, ...] = _repeated(
        str, "name or IP of the interface to reach peers by; repeatable, the first that fits is taken"
    )
    iface_regex: tuple[re.Pattern[str], ...] = _repeated(
        goflags.pattern, "pattern for an IP, then for a name, of that interface; repeatable, looked at after iface"
    )
    iface_can_reach: IPAddress | None = _value(  # noqa: RUF009  # a dataclass field
        goflags.optional(goflags.ip), None, "take the interface that the routing table chooses for this IP"
    )
    subnet_file: str = _text("/run/flannel/subnet.env", "file to write subnet, MTU and so on to, for CNI plugins and docker")
    public_ip: IPv4Address | None = _value(  # noqa: RUF009  # a dataclass field, as the others
        goflags.optional(goflags.ipv4), None, "IPv4 address that peers are told to send to"
    )
    public_ipv6: IPv6Address | None = _value(  # noqa: RUF009  # a dataclass field
        goflags.optional(goflags.ipv6), None, "IPv6 address that peers are told to send to"
    )
    subnet_lease_renew_margin: int = _number(
        60, "how long before its end the lease is renewed, minutes, 1 to 1439", 1, MINUTES_PER_LEASE - 1
    )
    ip_masq: bool = _switch(False, "masquerade what leaves the pod network")
    ip_masq_fully_random_disable: bool = _switch(False, "masquerade without choosing source ports at random")
    iptables_resync: int = _number(5, "how often firewall rules and the blackhole route are looked at again, seconds", 1, INT_MAX)
    iptables_forward_rules: bool = _switch(True, "let the firewall forward the pod network's packets")
    ip_blackhole_route: bool = _switch(False, "keep packets for unknown pods of our own subnet off the uplink")
    healthz_ip: IPAddress = _value(  # noqa: RUF009  # a dataclass field
        goflags.ip, ANY_ADDRESS, "address that /healthz and /readyz are served on"
    )
    healthz_port: int = _number(0, "port that /healthz and /readyz are served on; 0: none", 0, 65535)
    kube_subnet_mgr: bool = _switch(False, "lease subnets from Kubernetes instead of etcd")
    kube_api_url: str = _text("", "URL of the Kubernetes API; not needed inside a pod")
    kubeconfig_file: str = _text("", "kubeconfig file; not needed inside a pod")
    kube_annotation_prefix: str = _text("flannel.alpha.coreos.com", "prefix of our node annotations")
    net_config_path: str = _text("/etc/kube-flannel/net-conf.json", "file with the network config in Kubernetes mode")
    set_node_network_unavailable: bool = _switch(True, "clear the node's NetworkUnavailable condition when ready")
    cni_socket: str = _text("/run/flannel/cni.sock", "unix socket that the CNI plugins are served on; empty: none")
    node_labels: tuple[tuple[str, str], ...] = _value(
        goflags.labels, (), "comma list of key=value: what selectors of the bgp backend choose this host by"
    )
    log_format: str = _value(goflags.one_of("text", "json"), "text", "form of the log on stderr: text or json")
    dry_run: bool = _switch(False, "print what would be changed on this host and in the store, change nothing, and exit")
    v: int = _number(0, "log level: 1 and more log debug events", -INT_MAX, INT_MAX)
    version: bool = _switch(False, "print the version and exit")

    @property
    def debug(self) -> bool:
        """Log debug events."""
        return self.v > 0

    def public(self, family: Family) -> IPAddress | None:
        """The address of that family that peers are to be told, if it was given."""
        return self.public_ip if family == 4 else self.public_ipv6


KLOG_SWITCHES = ("add_dir_header", "alsologtostderr", "logtostderr", "one_output", "skip_headers", "skip_log_headers")
KLOG_VALUES = ("log_backtrace_at", "log_dir", "log_file", "log_file_max_size", "stderrthreshold", "vmodule")
NO_EFFECT = "accepted for flannel's manifests, no effect"
"""Kubernetes' log package adds these to a program's flags; we log to stderr, and only its `v` means something to us."""

OPTION_FLAGS: dict[str, Flag] = {option.name.replace("_", "-"): option.metadata["flag"] for option in fields(Options)}
FLAGS: dict[str, Flag] = (
    OPTION_FLAGS
    | {name: Flag(goflags.boolean, "", NO_EFFECT) for name in KLOG_SWITCHES}
    | {name: Flag(str, "value", NO_EFFECT) for name in KLOG_VALUES}
)


def read_options(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Command line before FLANNELD_* variables before defaults; raises UsageError, HelpRequested.

    With `version` nothing else is looked at.
    """
    given = goflags.read_command_line(FLAGS, argv)
    if given.get("version"):
        return Options(version=True)
    unset = {name: flag for name, flag in OPTION_FLAGS.items() if name not in given and name != "version"}
    given |= goflags.read_environment(unset, "FLANNELD", environ)
    values: dict[str, Any] = {name.replace("-", "_"): given[name] for name in OPTION_FLAGS if name in given}
    options = Options(**values)
    _check(options)
    return options


def _check(options: Options) -> None:
    """What no single flag can tell; raises UsageError."""
    if options.etcd_keyfile and not options.etcd_certfile:
        raise UsageError(f"etcd-keyfile {options.etcd_keyfile!r} needs etcd-certfile, got none")
    if options.etcd_certfile and not options.etcd_keyfile:
        raise UsageError(f"etcd-certfile {options.etcd_certfile!r} needs etcd-keyfile, got none")


def usage() -> str:
    """The help text."""
    defaults = {option.name.replace("_", "-"): option.default for option in fields(Options)}
    head = "Usage: flanneld [OPTION]...\nEach option can be set in the environment too: FLANNELD_ETCD_PREFIX is -etcd-prefix.\n"
    return head + goflags.describe(FLAGS, defaults)


def parse_flags(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """The options, or an end as a command line program makes it: help and version exit 0, an error exits 2, all on stderr."""
    try:
        options = read_options(argv, environ)
    except HelpRequested:
        sys.stderr.write(usage())
        raise SystemExit(0) from None
    except UsageError as error:
        sys.stderr.write(f"{usage() if isinstance(error, UndefinedFlag) else ''}flanneld: {error}\n")
        raise SystemExit(2) from None
    if options.version:
        from importlib.metadata import version  # a tenth of the start, for this one line

        sys.stderr.write(f"tartan {version('tartan')}\n")
        raise SystemExit(0)
    return options
