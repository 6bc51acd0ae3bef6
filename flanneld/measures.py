"""What the daemon measures of itself, read off its parts when somebody asks; must not keep anything.

No kernel counts packets per route, neighbour or FDB entry, so traffic is per device, not per peer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import lru_cache

from flanneld.health import Health
from flanneld.host import Host
from flanneld.keeper import LeaseKeeper, LeaseState
from flanneld.linux.links import traffic
from flanneld.linux.netlink import Netlink
from flanneld.membership import Membership
from flanneld.metrics import Metric, counter, counters, gauge, gauges, histogram, info
from flanneld.peers import PeerLoop
from flanneld.store import LeaseStore

RESULTS = ("applied", "refused")


def measures(host: Host, member: Membership, store: LeaseStore, health: Health, netlink: Netlink) -> Iterator[Metric]:
    """All of them, as of now."""
    yield info("flanneld_build_info", "The version that runs.", {"version": _version()})
    yield gauge("flanneld_ready", "1 if /readyz says 200.", float(not health.reasons))
    yield from _lease(host.keeper)
    yield from _store(store)
    yield from _peers(host.peers)
    yield from _situation(member, host)
    yield from _carried(member)
    yield from _traffic(member, netlink)
    for method in member.mesh.measured:
        yield from method.measures()


@lru_cache(maxsize=1)
def _version() -> str:
    from importlib.metadata import version  # a tenth of the start, for those who scrape

    return version("tartan")


def _lease(keeper: LeaseKeeper) -> Iterator[Metric]:
    lease, now = keeper.lease, time.time()
    labels = {"subnet": str(lease), "public_ip": "+".join(map(str, lease.attrs.public_ips))}
    yield info("flanneld_lease_info", "Our lease, and what peers are told to send to.", labels)
    states = {state.value: float(state is keeper.state) for state in LeaseState}
    yield gauges("flanneld_lease_state", "1 for the state that our lease is in: others than held want attention.", "state", states)
    left_s = None if lease.expires_at is None else lease.expires_at - now
    yield gauge("flanneld_lease_expires_in_seconds", "Until our lease ends if it is not renewed; none for a reservation.", left_s)
    yield gauge("flanneld_lease_age_seconds", "Since this daemon got our lease, or claimed it again.", now - keeper.claimed_at)
    yield counter("flanneld_lease_reclaims_total", "How often our lease was gone and was claimed again.", keeper.reclaims)
    yield counter("flanneld_lease_written_over_total", "How often somebody else had written into our lease.", keeper.written_over)


def _store(store: LeaseStore) -> Iterator[Metric]:
    status = store.status
    yield gauge("flanneld_store_reachable", "1 while the watch on the store is open.", float(status.reachable))
    silence_s = time.monotonic() - status.heard_at if status.heard_at else None
    yield gauge("flanneld_store_watch_silence_seconds", "Since the watch last heard from the store: it asks every 5 s.", silence_s)
    yield counter("flanneld_store_watches_total", "How often the watch was opened.", status.watches)
    yield counter("flanneld_store_compactions_total", "How often the watch was overtaken by a compaction.", status.compactions)


def _peers(peers: PeerLoop) -> Iterator[Metric]:
    rounds = peers.rounds
    states = {"programmed": float(rounds.peers), "refused": float(rounds.refused)}
    yield gauges("flanneld_peers", "Peers that packets reach, and those refused: the log says why.", "state", states)
    kinds = sorted({"route", "neighbour", "fdb"} | set(rounds.wanted))
    wanted = {kind: float(rounds.wanted[kind]) for kind in kinds}
    yield gauges("flanneld_entries_wanted", "Kernel entries that there should be.", "kind", wanted)
    programmed = {kind: float(rounds.wanted[kind] - rounds.missing[kind]) for kind in kinds}
    yield gauges("flanneld_entries_programmed", "Kernel entries that there are, of those.", "kind", programmed)
    yield counters(
        "flanneld_repairs_total",
        "Kernel entries put back or taken out because somebody else had changed something, by what was changed.",
        [({"kind": kind, "cause": cause}, count) for (kind, cause), count in sorted(rounds.repairs.items())],
    )
    yield histogram("flanneld_apply_duration_seconds", "What a round took that brings the kernel to the peers.", rounds.duration)
    yield counter("flanneld_apply_failures_total", "Rounds that failed, and were tried again.", rounds.failed)


def _situation(member: Membership, host: Host) -> Iterator[Metric]:
    now, methods = member.situation, member.mesh.methods
    backends = [{"backend": name, "state": "former" if place else "current"} for place, name in enumerate(methods)]
    yield info("flanneld_backend_info", "Live backends: the current one, and former ones that peers still speak.", *backends)
    yield counters(
        "flanneld_changes_total",
        "Changes of network config, uplink or subnet while the daemon ran.",
        [({"result": result}, host.changes[result]) for result in RESULTS],
    )
    addresses = " ".join(map(str, now.uplink.addresses))
    yield info("flanneld_uplink_info", "The interface that peers reach us by.", {"name": now.uplink.name, "addresses": addresses})
    yield gauge("flanneld_uplink_mtu_bytes", "Its MTU.", now.uplink.mtu)
    yield gauge("flanneld_pod_mtu_bytes", "The MTU that pods are given.", member.mesh.current.mtu)
    restored = member.rules.restored if member.rules else 0
    yield counter("flanneld_rules_restored_total", "How often firewall rules had to be put back.", restored)


def _words(facts: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in facts.items()}


def _carried(member: Membership) -> Iterator[Metric]:
    """Of the data paths in user space."""
    told = [(backend, *attached.carried()) for backend, attached in member.mesh.carrying]
    paths = [{"backend": backend, **_words(attached.path)} for backend, attached in member.mesh.carrying]
    yield info("flanneld_data_path_info", "What carries packets through this process, and what it has to work with.", *paths)
    yield counters(
        "flanneld_data_path_packets_total",
        "Packets that passed through this process, by what became of them.",
        [({"backend": backend, "what": what}, number) for backend, done, _ in told for what, number in done.items()],
    )
    yield counters(
        "flanneld_data_path_dropped_total",
        "Packets that went no further, by reason.",
        [({"backend": backend, "reason": why}, number) for backend, _, dropped in told for why, number in dropped.items()],
    )


def _traffic(member: Membership, netlink: Netlink) -> Iterator[Metric]:
    """Of our own devices."""
    found = [known for index in sorted(member.mesh.owner.devices) if (known := traffic(netlink, index)) is not None]
    for direction, word in (("rx", "receive"), ("tx", "transmit")):
        for what in ("packets", "bytes", "errors", "dropped"):
            yield counters(
                f"flanneld_device_{word}_{what}_total",
                f"What our devices count ({direction}_{what}): inner packets, of all peers together.",
                [({"device": name}, getattr(carried, f"{direction}_{what}")) for name, carried in found],
            )
