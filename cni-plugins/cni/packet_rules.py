"""What is in our packet filter tables: sets, and the fixed rules that look into them; must not know the kernel.

One table for address translation, one more for what the firewall plugin asks for, and one of the bridge family: an element of a set
makes the table it is in, so that a node has only the chains it needs.

A pod's elements are its own, and go when it goes; `SHARED` and `STANDING` are the exceptions.
"""

from __future__ import annotations

from ipaddress import ip_network

from flanneld.linux.nft_expressions import (
    CT_DIRECTION,
    CT_STATE,
    CT_STATUS,
    DADDR,
    DADDR_TYPE,
    DPORT,
    ETHER_SADDR,
    IIFNAME,
    L4PROTO,
    MARK,
    MASQUERADE,
    NF_DROP,
    NFT_JUMP,
    OIFNAME,
    SADDR,
    dnat_by,
    equals,
    has_bits,
    host_order,
    in_network,
    in_set,
    of_family,
    set_mark,
    verdict,
)
from flanneld.linux.nft_tables import Hook, NftChain, NftFamily, NftSet, NftTable, NftType

FAMILIES = (4, 6)
ADDRESS = {4: NftType.IPV4_ADDR, 6: NftType.IPV6_ADDR}
PORT = (NftType.INET_PROTO, NftType.INET_SERVICE)

MAPPED = 0x2000
"""The bit of the packet's mark that says "redirected by a port mapping", as of the reference plugin (`markMasqBit` 13)."""
PASSED = 0x1000
"""The bit that says, within the forward hook only, that the firewall plugin lets the packet pass: see `forwarding`."""
RTN_LOCAL = 2
ESTABLISHED_OR_RELATED = 0x2 | 0x4
"""NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h, as bits of `ct state`."""
IPS_DST_NAT = 1 << 5
ORIGINAL = bytes([0])
"""IP_CT_DIR_ORIGINAL."""
MULTICAST = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}
LOOPBACK = {4: ip_network("127.0.0.0/8"), 6: ip_network("::1/128")}
LOOPBACK_NAME = b"lo".ljust(16, b"\0")
DSTNAT, SRCNAT, FILTER, BRIDGE_PREROUTING = -100, 100, 0, -300


def _address_sets(family: int) -> tuple[NftSet, ...]:
    address = ADDRESS[family]
    return (
        NftSet(f"ports{family}", PORT, (address, NftType.INET_SERVICE)),
        NftSet(f"ip_ports{family}", (address, *PORT), (address, NftType.INET_SERVICE)),
        NftSet(f"hairpin{family}", (address,)),
        NftSet(f"hairpin_all{family}", (address,)),
        NftSet(f"masqueraded{family}", (address,)),
        NftSet(f"near{family}", (address, address), interval=True),
    )


def _redirect(family: int) -> tuple[bytes, ...]:
    """What was mapped leaves the chain marked; the last rule of the chain takes the mark from what goes on.

    IPv6 has no `route_localnet`: what is sent to ::1 cannot lead to a pod, and may be for the host.
    """
    ours = of_family(family) + (in_network(DADDR[6], LOOPBACK[6], inside=False) if family == 6 else b"")
    return (
        of_family(family) + dnat_by(f"ip_ports{family}", family, DADDR[family], L4PROTO, DPORT),
        ours + dnat_by(f"ports{family}", family, L4PROTO, DPORT),
    )


def _hairpin(family: int) -> tuple[bytes, ...]:
    """Whom the pod would answer past the host, by the segment that both are on, or at an address that is the pod's own too."""
    to_pod = of_family(family) + in_set(f"hairpin{family}", DADDR[family])
    from_host = to_pod + in_network(SADDR[family], LOOPBACK[family]) + MASQUERADE
    return (
        of_family(family) + in_set(f"hairpin_all{family}", DADDR[family]) + MASQUERADE,
        to_pod + in_set(f"near{family}", SADDR[family], DADDR[family]) + MASQUERADE,
        *((from_host,) if family == 4 else ()),
    )


def _masquerade(family: int) -> bytes:
    """Not towards the pod's own subnet, nor to multicast groups."""
    elsewhere = in_set(f"near{family}", SADDR[family], DADDR[family], inside=False) + in_network(
        DADDR[family], MULTICAST[family], inside=False
    )
    return of_family(family) + in_set(f"masqueraded{family}", SADDR[family]) + elsewhere + MASQUERADE


TO_US = equals(DADDR_TYPE, host_order(RTN_LOCAL)) + verdict(NFT_JUMP, "mappings")
TRANSLATION = NftTable(
    NftFamily.INET,
    "tartan-cni",
    tuple(each for family in FAMILIES for each in _address_sets(family)),
    (
        NftChain(
            "mappings",
            (set_mark(MAPPED, True), *(rule for family in FAMILIES for rule in _redirect(family)), set_mark(MAPPED, False)),
        ),
        NftChain(
            "mapped",
            (
                set_mark(MAPPED, False),
                *(rule for family in FAMILIES for rule in _hairpin(family)),
            ),
        ),
        NftChain("prerouting", (TO_US,), Hook.PREROUTING, "nat", DSTNAT),
        NftChain("output", (TO_US,), Hook.OUTPUT, "nat", DSTNAT),
        NftChain(
            "postrouting",
            (has_bits(MARK, MAPPED) + verdict(NFT_JUMP, "mapped"), *(_masquerade(family) for family in FAMILIES)),
            Hook.POSTROUTING,
            "nat",
            SRCNAT,
        ),
        # `route_localnet`, which portmap sets for 127.0.0.1, opens the host's loopback services to the pods: CVE-2020-8558.
        NftChain(
            "input",
            (
                equals(IIFNAME, LOOPBACK_NAME, equal=False)
                + of_family(4)
                + in_network(DADDR[4], LOOPBACK[4])
                + equals(CT_DIRECTION, ORIGINAL)
                + has_bits(CT_STATUS, IPS_DST_NAT, any_bit=False)
                + verdict(NF_DROP),
            ),
            Hook.INPUT,
        ),
    ),
)


def _let_pass(family: int) -> tuple[bytes, ...]:
    to_pod = of_family(family) + in_set(f"passed{family}", DADDR[family])
    return (
        of_family(family) + in_set(f"passed{family}", SADDR[family]) + set_mark(PASSED, True),
        to_pod + has_bits(CT_STATE, ESTABLISHED_OR_RELATED) + set_mark(PASSED, True),
        to_pod + has_bits(MARK, MAPPED) + set_mark(PASSED, True),
    )


FIREWALL = NftTable(
    NftFamily.INET,
    "tartan-cni-firewall",
    (
        *(NftSet(f"passed{family}", (ADDRESS[family],)) for family in FAMILIES),
        NftSet("bridges_apart", (NftType.IFNAME,)),
        NftSet("bridges_within", (NftType.IFNAME, NftType.IFNAME)),
    ),
    (
        NftChain(
            "before_filter", tuple(rule for family in FAMILIES for rule in _let_pass(family)), Hook.FORWARD, priority=FILTER - 1
        ),
        NftChain(
            "forward",
            (
                in_set("bridges_apart", IIFNAME)
                + in_set("bridges_apart", OIFNAME)
                + in_set("bridges_within", IIFNAME, OIFNAME, inside=False)
                + verdict(NF_DROP),
            ),
            Hook.FORWARD,
            priority=FILTER,
        ),
        NftChain("after_filter", (has_bits(MARK, PASSED) + set_mark(PASSED, False),), Hook.FORWARD, priority=FILTER + 1),
    ),
)
BRIDGE = NftTable(
    NftFamily.BRIDGE,
    "tartan-cni",
    (
        NftSet("guarded_ports", (NftType.IFNAME,)),
        NftSet("port_macs", (NftType.IFNAME, NftType.ETHER_ADDR)),
        NftSet("isolated_ports", (NftType.IFNAME,)),
    ),
    (
        NftChain(
            "prerouting",
            (in_set("guarded_ports", IIFNAME) + in_set("port_macs", IIFNAME, ETHER_SADDR, inside=False) + verdict(NF_DROP),),
            Hook.PREROUTING,
            priority=BRIDGE_PREROUTING,
        ),
        NftChain(
            "forward", (in_set("isolated_ports", IIFNAME) + in_set("isolated_ports", OIFNAME) + verdict(NF_DROP),), Hook.FORWARD
        ),
    ),
)
TABLES: dict[tuple[int, str], NftTable] = {(table.family, table.name): table for table in (TRANSLATION, FIREWALL, BRIDGE)}
PLACES: dict[str, tuple[NftTable, NftSet]] = {each.name: (table, each) for table in TABLES.values() for each in table.sets}
"""Where each set is; no two tables have one of the same name."""
SHARED = frozenset({"bridges_apart", "bridges_within"})
"""Sets whose elements several pods may hold: one goes with the last of them."""
STANDING = frozenset(f"near{family}" for family in FAMILIES)
"""Sets whose elements are about a subnet. Several pods hold one; one that no pod needs does nothing, and goes when reconciled.

These are interval sets, whose cost grows with their size: an element for each of 250 pods made a change five times as slow.
"""
