"""What may be routed into a bridge network and out of it, as rules of nftables; must not know containers.

    table inet tartan-engine
      set bridges      bridges of networks that masquerade: who is not on the bridge, nor this host, reaches published ports only
      set internal     bridges into which and out of which nothing is routed at all
      chain forward    the rules, fixed; what they accept other tables may still drop

Networks are apart from each other by what the CNI plugin `firewall` does. The table is ours: nobody else's rules are touched.
"""

from __future__ import annotations

from collections.abc import Collection

from flanneld.linux.nft_elements import Element, NftSocket, encode_element
from flanneld.linux.nft_expressions import CT_STATE, CT_STATUS, IIFNAME, NF_ACCEPT, NF_DROP, OIFNAME, has_bits, in_set, verdict
from flanneld.linux.nft_tables import Hook, NftChain, NftFamily, NftSet, NftTable, NftType, delete_table, replace_table
from runtime.errors import EngineError

ESTABLISHED_OR_RELATED = 0x2 | 0x4
"""NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h, as bits of `ct state`."""
IPS_DST_NAT = 1 << 5
ACCEPT, DROP = verdict(NF_ACCEPT), verdict(NF_DROP)
FROM_BRIDGE, TO_BRIDGE = in_set("bridges", IIFNAME), in_set("bridges", OIFNAME)
FROM_INTERNAL, TO_INTERNAL = in_set("internal", IIFNAME), in_set("internal", OIFNAME)
FENCE = NftTable(
    NftFamily.INET,
    "tartan-engine",
    (NftSet("bridges", (NftType.IFNAME,)), NftSet("internal", (NftType.IFNAME,))),
    (
        NftChain(
            "forward",
            (
                FROM_INTERNAL + TO_INTERNAL + ACCEPT,  # within a bridge, by br_netfilter; others are kept apart elsewhere
                FROM_INTERNAL + DROP,
                TO_INTERNAL + DROP,
                FROM_BRIDGE + ACCEPT,
                TO_BRIDGE + has_bits(CT_STATE, ESTABLISHED_OR_RELATED) + ACCEPT,
                TO_BRIDGE + has_bits(CT_STATUS, IPS_DST_NAT) + ACCEPT,
                TO_BRIDGE + DROP,
            ),
            Hook.FORWARD,
        ),
    ),
)


def fence(bridges: Collection[str], internal: Collection[str]) -> None:
    """Have the table say exactly this, in one step; without any bridge there is no table. Raises FlanneldError, OSError."""
    elements = [
        encode_element(FENCE, Element(name, each.encode().ljust(NftType.IFNAME.size, b"\0")))
        for name, names in (("bridges", bridges), ("internal", internal))
        for each in names
    ]
    with NftSocket() as nft:
        refused = [
            outcome for outcome in nft.commit([*(replace_table(FENCE) if elements else delete_table(FENCE)), *elements]) if outcome
        ]
    if refused:
        raise EngineError(f"networks cannot be fenced by nftables: {refused[0].why}")
