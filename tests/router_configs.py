"""What a BGP router for a test is to do, as one value, and that in the words of BIRD 2, FRR and GoBGP; must not know processes.

A renderer's text is complete. More of the same language may be put behind BIRD's and FRR's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from textwrap import indent

from bgp.path import Asn
from flanneld.lease import FAMILIES, Family, IPAddress, IPNetwork, family_of

BFD_INTERVAL_MS = 300
BFD_MULTIPLIER = 3
"""A loss is noticed after so many intervals: not less, as the machine may do much else."""
RETRY_S = 1
"""Between attempts to connect; the defaults are up to two minutes."""
ORIGINATE = "# originate "
"""Begins a line of GoBGP's text for a route of its own, as `gobgp global rib add` has it: gobgpd's file has no place for them, so
they are told to it once it runs."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The other end of one session."""

    address: IPAddress
    asn: Asn
    password: str = ""
    """For TCP MD5 (RFC 2385), without spaces; empty: none."""
    hold_time_s: int = 9
    """Keepalives go out three times as often."""
    passive: bool = False
    """Wait for it to connect. GoBGP itself takes 5 s and more until it tries."""
    gtsm: bool = False
    """Hear it only from the link itself (RFC 5082)."""
    bfd: bool = False
    """The session falls with BFD's (RFC 5882). GoBGP 3 has none."""
    reflector_client: bool = False
    """It gets what other internal neighbours tell (RFC 4456)."""
    graceful_restart: bool = True
    """For it, and for us as its helper (RFC 4724)."""
    families: tuple[Family, ...] = (4,)
    """IPv4 over a session of IPv6 has next hops of IPv6 (RFC 8950)."""
    multihop: int | None = None
    """It is at most so many hops away; None: on the link. Never with `gtsm`."""
    source: IPAddress | None = None
    """Our end of the session; None: as the route there says. FRR with BFD is to be told: when it learns its end from the session,
    it begins BFD anew, and the other end takes the session down."""


@dataclass(frozen=True, slots=True)
class RouterPlan:
    """A router that takes everything from its neighbours, and tells everything on that BGP lets it."""

    router_id: str
    """As a dotted quad; also the cluster's, of a reflector."""
    asn: Asn
    neighbours: tuple[Neighbour, ...]
    originate: tuple[IPNetwork, ...] = ()
    """Announced whether there is a route or not."""
    multipath: bool = False
    """Use all equally good paths at once."""
    next_hop6: IPv6Address | None = None
    """Itself, in what it tells of IPv6 over sessions of IPv4, which is no use without; only FRR finds it by itself."""
    restart_time_s: int = 120
    """So long neighbours with graceful restart are to keep what we told them after a loss."""

    def originated(self, family: Family) -> list[IPNetwork]:
        return [prefix for prefix in self.originate if family_of(prefix) == family]


def render_bird(plan: RouterPlan) -> str:
    """bird.conf for BIRD 2. Each neighbour's protocol is named by its address: another text leaves the unchanged ones alone."""
    lines = [
        f"router id {plan.router_id};",
        "protocol device {}",
        "protocol direct { ipv4; ipv6; }",  # without it next hops from internal neighbours beyond the link stay unreachable
        f'protocol bfd {{ interface "*" {{ interval {BFD_INTERVAL_MS} ms; multiplier {BFD_MULTIPLIER}; }}; }}',
    ]
    merge = " merge paths on;" if plan.multipath else ""
    recover = " graceful restart;" if any(neighbour.graceful_restart for neighbour in plan.neighbours) else ""
    for family in FAMILIES:
        own = " ".join(f"route {prefix} blackhole;" for prefix in plan.originated(family))
        lines.append(f"protocol static static{family} {{ ipv{family}; {own} }}")
        export = f"ipv{family} {{ import none; export where source = RTS_BGP; }};"
        lines.append(f"protocol kernel kernel{family} {{ {export}{merge}{recover} }}")
    return "\n".join([*lines, *(_bird_neighbour(plan, neighbour) for neighbour in plan.neighbours), ""])


def _bird_neighbour(plan: RouterPlan, neighbour: Neighbour) -> str:
    name = f"peer_{neighbour.address}".translate(str.maketrans(".:", "__"))
    source = f"{neighbour.source} " if neighbour.source else ""
    body = [
        f"local {source}as {plan.asn};",
        f"neighbor {neighbour.address} as {neighbour.asn};",
        f"hold time {neighbour.hold_time_s};",
        f"connect delay time 0; connect retry time {RETRY_S}; error wait time {RETRY_S}, {5 * RETRY_S};",
        f"multihop {neighbour.multihop};" if neighbour.multihop else "direct;",
        f"graceful restart {'on' if neighbour.graceful_restart else 'off'}; graceful restart time {plan.restart_time_s};",
        *_chosen(
            (neighbour.password, f'password "{neighbour.password}";'),
            (neighbour.passive, "passive on;"),
            (neighbour.gtsm, "ttl security on;"),
            (neighbour.bfd, "bfd on;"),
            (neighbour.reflector_client, "rr client;"),
        ),
        *(_bird_channel(plan, neighbour, family) for family in neighbour.families),
    ]
    return f"protocol bgp {name} {{\n{indent(chr(10).join(body), '  ')}\n}}"


def _bird_channel(plan: RouterPlan, neighbour: Neighbour, family: Family) -> str:
    options = _chosen(
        (family < family_of(neighbour.address), "extended next hop on;"),
        (family > family_of(neighbour.address) and plan.next_hop6, f"next hop address {plan.next_hop6};"),
    )
    wide = "import all; export where source ~ [RTS_STATIC, RTS_BGP]; next hop self ebgp;"
    return f"ipv{family} {{ {' '.join([wide, *options])} }};"


def render_frr(plan: RouterPlan) -> str:
    """frr.conf for FRR 8.4 and later, all daemons' in one."""
    neighbours = [line for neighbour in plan.neighbours for line in _frr_neighbour(neighbour)]
    body = [
        f"bgp router-id {plan.router_id}",
        "no bgp ebgp-requires-policy",
        "no bgp default ipv4-unicast",
        "no bgp network import-check",
        "bgp bestpath as-path multipath-relax",
        "coalesce-time 10",  # ms that the first routes wait for company: a whole second otherwise
        "bgp graceful-restart",
        "bgp graceful-restart preserve-fw-state",
        f"bgp graceful-restart restart-time {plan.restart_time_s}",
        f"bgp graceful-restart stalepath-time {plan.restart_time_s}",
        *neighbours,
        *(line for family in FAMILIES for line in _frr_family(plan, family)),
    ]
    bfd = [
        "profile test",
        *_indented(
            [f"detect-multiplier {BFD_MULTIPLIER}", *(f"{way}-interval {BFD_INTERVAL_MS}" for way in ("receive", "transmit"))]
        ),
        "exit",
    ]
    head = ["frr defaults datacenter", "ip forwarding", "ipv6 forwarding"]
    return "\n".join([*head, "bfd", *_indented(bfd), "exit", f"router bgp {plan.asn}", *_indented(body), "exit", ""])


def _frr_neighbour(neighbour: Neighbour) -> Iterator[str]:
    said = [
        f"remote-as {neighbour.asn}",
        f"timers {max(1, neighbour.hold_time_s // 3)} {neighbour.hold_time_s}",
        f"timers connect {RETRY_S}",
        *_chosen(
            (not neighbour.graceful_restart, "graceful-restart-disable"),
            (neighbour.password, f"password {neighbour.password}"),
            (neighbour.passive, "passive"),
            (neighbour.gtsm, "ttl-security hops 1"),
            (neighbour.bfd, "bfd"),
            (neighbour.bfd, "bfd profile test"),
            (neighbour.multihop, f"ebgp-multihop {neighbour.multihop}"),
            (neighbour.source, f"update-source {neighbour.source}"),
            (neighbour.address.version == 6 and 4 in neighbour.families, "capability extended-nexthop"),
        ),
    ]
    return (f"neighbor {neighbour.address} {line}" for line in said)


def _frr_family(plan: RouterPlan, family: Family) -> Iterator[str]:
    paths = 64 if plan.multipath else 1
    body = [f"network {prefix}" for prefix in plan.originated(family)]
    body += [f"maximum-paths {paths}", f"maximum-paths ibgp {paths}"]
    for neighbour in plan.neighbours:
        if family in neighbour.families:
            client = _chosen((neighbour.reflector_client, "route-reflector-client"))
            body += [f"neighbor {neighbour.address} {line}" for line in ("activate", "next-hop-self", *client)]
    yield from (f"address-family ipv{family} unicast", *_indented(body), "exit-address-family")


def render_frr_evpn(plan: RouterPlan) -> str:
    """What goes behind `render_frr` for EVPN with all neighbours (RFC 7432): FRR then tells of every vxlan device in a bridge."""
    body = []
    for neighbour in plan.neighbours:
        client = _chosen((neighbour.reflector_client, "route-reflector-client"))
        body += [f"neighbor {neighbour.address} {line}" for line in ("activate", *client)]
    family = ["address-family l2vpn evpn", *_indented([*body, "advertise-all-vni"]), "exit-address-family"]
    return "\n".join([f"router bgp {plan.asn}", *_indented(family), "exit", ""])


def render_gobgp(plan: RouterPlan) -> str:
    """gobgpd.toml for GoBGP 3, which puts no route into the kernel; raises ValueError for BFD, which it does not have."""
    if unable := [str(neighbour.address) for neighbour in plan.neighbours if neighbour.bfd]:
        raise ValueError(f"GoBGP has no BFD, wanted with {', '.join(unable)}")
    hop6 = f" nexthop {plan.next_hop6}" if plan.next_hop6 else ""
    lines = [f"{ORIGINATE}{prefix} origin igp{hop6 if prefix.version == 6 else ''}" for prefix in plan.originate]
    lines += ["[global.config]", f"as = {plan.asn}", f'router-id = "{plan.router_id}"']
    lines += ["[global.use-multiple-paths.config]", f"enabled = {_toml(plan.multipath)}"]
    for neighbour in plan.neighbours:
        lines += ["[[neighbors]]", *(f"[neighbors.{table}]\n{values}" for table, values in _gobgp_neighbour(plan, neighbour))]
        for family in neighbour.families:
            safi = f'[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = "ipv{family}-unicast"'
            lines += [safi, f"[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = {_toml(neighbour.graceful_restart)}"]
    return "\n".join([*lines, ""])


def _gobgp_neighbour(plan: RouterPlan, neighbour: Neighbour) -> Iterator[tuple[str, str]]:
    """Tables and what is in them."""
    password = f"\nauth-password = {_toml(neighbour.password)}" if neighbour.password else ""
    yield "config", f'neighbor-address = "{neighbour.address}"\npeer-as = {neighbour.asn}{password}'
    hold = f"hold-time = {neighbour.hold_time_s}\nkeepalive-interval = {max(1, neighbour.hold_time_s // 3)}"
    yield "timers.config", f"{hold}\nconnect-retry = {RETRY_S}\nidle-hold-time-after-reset = {RETRY_S}"
    source = f'\nlocal-address = "{neighbour.source}"' if neighbour.source else ""
    yield "transport.config", f"passive-mode = {_toml(neighbour.passive)}{source}"
    yield "graceful-restart.config", f"enabled = {_toml(neighbour.graceful_restart)}\nrestart-time = {plan.restart_time_s}"
    if neighbour.gtsm:
        yield "ttl-security.config", "enabled = true\nttl-min = 255"
    if neighbour.multihop:
        yield "ebgp-multihop.config", f"enabled = true\nmultihop-ttl = {neighbour.multihop}"
    if neighbour.reflector_client:
        cluster = f'route-reflector-cluster-id = "{plan.router_id}"'
        yield "route-reflector.config", f"route-reflector-client = true\n{cluster}"


def _chosen(*offers: tuple[object, str]) -> list[str]:
    """Those words whose condition holds."""
    return [words for wanted, words in offers if wanted]


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f" {line}" for line in lines)


def _toml(value: object) -> str:
    return json.dumps(value)
