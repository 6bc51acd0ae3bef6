"""What is compared with what, and how a comparison should end; must not know how anything is measured or shown.

A ratio is of two samples of one round, so that what else the machine did then falls on both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from data_path_measures import Sample
from data_paths import C_LOOP, HAND_HOST_GW, HAND_VXLAN, PLAIN, Underlay

REFERENCES: Mapping[str, str] = {
    PLAIN: PLAIN,
    HAND_HOST_GW: PLAIN,
    "host-gw": HAND_HOST_GW,
    HAND_VXLAN: PLAIN,
    "vxlan": HAND_VXLAN,
    "vxlan userspace": HAND_VXLAN,
    C_LOOP: PLAIN,
    "udp": C_LOOP,
    "udp tun": C_LOOP,
    "udp native": C_LOOP,
    "udp ebpf": "vxlan",
}
"""What each path's figures are shown beside."""
TCP, TCP4, DATAGRAMS, RTT, RTT_P99 = "tcp1_bits_per_s", "tcp4_bits_per_s", "datagrams_per_s", "rtt_p50_s", "rtt_p99_s"
BOTH = tuple(Underlay)


@dataclass(frozen=True, slots=True)
class Target:
    """How a path should do beside another one."""

    path: str
    metric: str
    bound: float
    reference: str
    at_least: bool = True
    """False: at most."""
    underlays: Sequence[Underlay] = BOTH

    def met(self, ratio: float) -> bool:
        """True if that is good enough."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound


TARGETS = (
    *(Target("host-gw", metric, 0.98, HAND_HOST_GW) for metric in (TCP, TCP4, DATAGRAMS)),
    *(Target("vxlan", metric, 0.98, HAND_VXLAN) for metric in (TCP, TCP4, DATAGRAMS)),
    Target("udp tun", TCP, 5, C_LOOP),
    Target("udp tun", DATAGRAMS, 1, C_LOOP),
    Target("udp tun", RTT, 1.6, C_LOOP, at_least=False),
    Target("udp tun", RTT_P99, 1, C_LOOP, at_least=False),
    Target("udp native", TCP, 8, C_LOOP),
    Target("udp native", DATAGRAMS, 2, C_LOOP),
    Target("udp native", RTT, 1.1, C_LOOP, at_least=False),
    Target("udp ebpf", TCP, 0.8, "host-gw", underlays=(Underlay.SOFT,)),
    Target("udp ebpf", TCP, 0.95, "vxlan", underlays=(Underlay.WIRE,)),
    Target("udp ebpf", DATAGRAMS, 1.5, "vxlan"),
    Target("udp ebpf", RTT, 1, "vxlan", at_least=False),
    Target("udp ebpf", RTT_P99, 1, "vxlan", at_least=False),
)


def with_references(names: Iterable[str]) -> list[str]:
    """These paths and all that they, and their references in turn, are compared with; in the order of REFERENCES."""
    wanted, found = [*names], set[str]()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += [REFERENCES[name], *(target.reference for target in TARGETS if target.path == name)]
    return [name for name in REFERENCES if name in found]


@dataclass(frozen=True, slots=True)
class Findings:
    """All samples of a run."""

    samples: Sequence[Sample]

    def rounds(self, path: str, underlay: Underlay, metric: str) -> dict[int, float]:
        """The figure of each round that has one."""
        return {s.round: s.values[metric] for s in self.samples if (s.path, s.underlay) == (path, underlay)}

    def median(self, path: str, underlay: Underlay, metric: str) -> float | None:
        """Over all rounds."""
        return median(found) if (found := self.rounds(path, underlay, metric).values()) else None

    def ratios(self, path: str, underlay: Underlay, metric: str, reference: str) -> list[float]:
        """To the reference, round by round, lowest first."""
        ours, theirs = self.rounds(path, underlay, metric), self.rounds(reference, underlay, metric)
        return sorted(ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number])
