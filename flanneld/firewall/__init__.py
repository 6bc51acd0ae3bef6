"""Programs `masquerade`'s rules, one file per kind of firewall, and chooses the kind; must not know any rule."""

from __future__ import annotations

from flanneld.firewall.iptables import IptablesFirewall
from flanneld.firewall.nftables import NftablesFirewall
from flanneld.log import Log
from flanneld.masquerade import Firewall, FirewallError, FirewallMissing

log = Log(__name__)


def open_firewall(enable_nftables: bool, instance: str = "") -> Firewall:
    """nftables if asked for (`EnableNFTables`) or, with a warning, if there is no iptables; else iptables. Raises FirewallMissing.

    `instance`, up to 12 letters, tells the daemons of one host apart; empty gives Go flannel's names.
    """
    if not enable_nftables:
        try:
            return IptablesFirewall(instance)
        except FirewallMissing as error:
            log.warning("iptables is missing, using nftables", why=error)
    return NftablesFirewall(instance)


async def clear_other(used: Firewall, instance: str = "") -> None:
    """Remove what an earlier run, Go flannel's too, left in the other kind.

    Meant to follow the first `apply`: then packets meet rules at every instant of a change of kind.
    """
    other = NftablesFirewall if isinstance(used, IptablesFirewall) else IptablesFirewall
    try:
        await other(instance).clear()
    except FirewallMissing:
        return  # nothing can have been left there
    except FirewallError as error:
        log.warning("rules of an earlier run remain", why=error)
