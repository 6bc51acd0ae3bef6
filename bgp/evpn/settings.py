"""The `Backend` object of vxlan with EVPN as its control, as values; must not know any host.

Keys are vxlan's, and bgp's but for `Port`, which is vxlan's UDP port: hosts listen for BGP on `BGPPort`. What has no use here, as
`Reflectors` (a router reflects, by `Peers`), `MaxPaths` and `Services`, is not known. `RouteTargets`: of the form 64512:100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bgp.config import KEYS as BGP_KEYS
from bgp.config import BgpConfig, parse
from bgp.evpn.communities import ExtendedCommunity, parse_target
from bgp.section import Section
from bgp.session import BGP_PORT
from flanneld.backends.vtep import Vni
from flanneld.config import read_int

OF_BGP = BGP_KEYS - {"port", "reflectors", "clusterid", "maxpaths", "services"}
KEYS = OF_BGP | {"control", "bgpport", "routetargets"}
"""In lower case, beside vxlan's."""


@dataclass(frozen=True, slots=True)
class EvpnSettings:
    """What the user wrote, checked."""

    bgp: BgpConfig
    """With the port of BGP, and with none of the keys that are not known."""
    vni: Vni
    targets: frozenset[ExtendedCommunity]
    """Route targets that our routes have, and of which others' have one; none: the automatic ones, AS:VNI with any AS."""


def parse_settings(config: Mapping[str, object], vni: Vni) -> EvpnSettings:
    """Read the keys that are not vxlan's; raises ConfigError."""
    port = read_int(config, "BGPPort", BGP_PORT, 1, 65535)
    known = {key: value for key, value in config.items() if key in OF_BGP}
    targets = Section(config).listed("RouteTargets", parse_target, "a route target like 64512:100")
    return EvpnSettings(parse({**known, "port": port}), vni, frozenset(targets))
