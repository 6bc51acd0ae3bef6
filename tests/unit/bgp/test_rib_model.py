"""bgp.rib against the plainest thing that could be right: every path in a dictionary, and all choices made anew after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bgp.admission import ImportPolicy, Refusal
from bgp.best_path import Candidate, equals
from bgp.loc_rib import whose
from bgp.path import Asn, AsPath, Path
from bgp.peer import MaxPrefix, PeerInfo
from bgp.refusals import Key
from bgp.rib import Rib
from bgp_announcements import POLICY, info, peer, said, told
from flanneld.lease import IPAddress, IPNetwork

MAX_PATHS = 2
INFOS = (info(2), info(3, limit=MaxPrefix(2)), info(4, 65101), info(5, 65101), info(6))
PREFIXES = ("10.244.2.0/24", "10.244.3.0/24", "10.244.9.7/32", "10.96.0.1/32", "10.9.0.0/16")
POLICIES = (
    POLICY,
    replace(POLICY, origin_of={peer(number): (ip_network(f"10.244.{number}.0/24"),) for number in (2, 4)}),
    replace(POLICY, elsewhere=frozenset((ip_network("10.244.3.0/24"),)), services=(ip_network("10.9.0.0/16"),)),
    replace(POLICY, host_routes=False, own_subnets=(ip_network("10.244.2.0/24"),)),
)
peers = st.sampled_from([each.address for each in INFOS])
keep_s = st.sampled_from([0.0, 5.0, 20.0])
attributes = st.sampled_from([said(), said(), said(), said(200), said(med=7), said(originator="10.0.0.3")])
"""Mostly the same: what is interesting begins where paths are equally good."""
announcement = st.builds(
    lambda prefix, via, path_id, attributes: told(2, prefix, via=via, path_id=path_id, attributes=attributes),
    st.sampled_from(PREFIXES),
    st.sampled_from(["10.0.0.3", "10.0.0.8", "10.0.0.9", "10.0.0.10"]),
    st.integers(0, 1),
    attributes,
)
announcements = st.lists(announcement, min_size=1, max_size=4)


def by(address: IPAddress, paths: Sequence[Path]) -> list[Path]:
    """The same paths, as that peer announces them."""
    as_path = AsPath((Asn(65101),) if address in (peer(4), peer(5)) else ())
    return [replace(path, peer=address, attributes=replace(path.attributes, as_path=as_path)) for path in paths]


@dataclass
class Remembered:
    """One peer, plainly."""

    info: PeerInfo
    taken: dict[Key, tuple[Path, float | None]] = field(default_factory=dict)
    """With until when it is kept, None when the session stands."""
    refused: dict[Key, Path] = field(default_factory=dict)

    def tell(self, path: Path, policy: ImportPolicy) -> None:
        key, limit = (path.prefix, path.path_id), self.info.max_prefix
        is_one_too_many = limit is not None and key not in self.taken and len(self.taken) >= limit.limit
        self.refused.pop(key, None)
        if isinstance(policy.admit(path, self.info.session), Refusal) or is_one_too_many:
            self.taken.pop(key, None)
            self.refused[key] = path
        else:
            self.taken[key] = (path, None)

    def withdraw(self, key: Key) -> None:
        self.taken.pop(key, None)
        self.refused.pop(key, None)

    def lose(self, hard: bool, until: float, now: float) -> None:
        self.refused.clear()
        if hard or until <= now:
            self.taken.clear()
        for key, (path, old) in self.taken.items():
            self.taken[key] = (path, until if old is None else old)


class RibModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.policy = POLICY
        self.rib = Rib(POLICY, MAX_PATHS)
        self.model: dict[IPAddress, Remembered] = {}
        self.best: dict[IPNetwork, Candidate] = {}

    @initialize()
    def add_all(self) -> None:
        for each in INFOS:
            self.add(each)

    @rule(each=st.sampled_from(INFOS))
    def add(self, each: PeerInfo) -> None:
        self.rib.add_peer(each)
        self.model.setdefault(each.address, Remembered(each))

    @rule(address=peers)
    def forget(self, address: IPAddress) -> None:
        self.rib.forget(address)
        self.model.pop(address, None)

    @rule(address=peers, paths=announcements)
    def announce(self, address: IPAddress, paths: list[Path]) -> None:
        self.rib.announced(address, by(address, paths))
        for path in by(address, paths) if address in self.model else ():
            self.model[address].tell(path, self.policy)

    @rule(address=peers, paths=announcements)
    def withdraw(self, address: IPAddress, paths: list[Path]) -> None:
        keys = [(path.prefix, path.path_id) for path in paths]
        self.rib.withdrawn(address, keys)
        for key in keys if address in self.model else ():
            self.model[address].withdraw(key)

    @rule(address=peers, hard=st.booleans(), keep=keep_s)
    def lose(self, address: IPAddress, hard: bool, keep: float) -> None:
        self.rib.down(address, hard, keep, self.now)
        if address in self.model:
            self.model[address].lose(hard, self.now + keep, self.now)

    @rule(address=peers)
    def end_rib(self, address: IPAddress) -> None:
        self.rib.up(address)
        self.rib.end_of_rib(address, 4)
        if address in self.model:
            taken = self.model[address].taken
            self.model[address].taken = {key: each for key, each in taken.items() if each[1] is None}

    @rule(address=peers, paths=announcements)
    def resync(self, address: IPAddress, paths: list[Path]) -> None:
        self.rib.resync(address, by(address, paths))
        if address in self.model:
            remembered, keys = self.model[address], {(path.prefix, path.path_id) for path in paths}
            remembered.taken = {key: each for key, each in remembered.taken.items() if key in keys}
            remembered.refused.clear()
            for path in by(address, paths):
                remembered.tell(path, self.policy)

    @rule(seconds=st.sampled_from([1.0, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        over = [(each, key) for each in self.model.values() for key, (_, until) in each.taken.items() if (until or 1e9) <= self.now]
        assert self.rib.expire(self.now) == bool(over)
        for each, key in over:
            each.withdraw(key)

    @rule(policy=st.sampled_from(POLICIES))
    def change_policy(self, policy: ImportPolicy) -> None:
        self.policy = policy
        self.rib.policy_changed(policy)
        for each in self.model.values():
            again = list(each.refused.values())
            for path in again:
                each.refused.pop((path.prefix, path.path_id))
            for path in again:
                each.tell(path, policy)

    def choose(self, prefix: IPNetwork, candidates: list[Candidate]) -> tuple[Path, ...]:
        ranked = equals(candidates)
        if any(prefix.subnet_of(pool.network) for pool in self.policy.pools):  # type: ignore[arg-type]  # all are IPv4
            claims = [whose(each, self.policy) for each in ranked]
            held = whose(self.best[prefix], self.policy) if prefix in self.best else ""
            ranked = [each for each, claim in zip(ranked, claims, strict=True) if claim == (held if held in claims else claims[0])]
        firsts = {each.path.next_hop: each for each in reversed(ranked)}
        used = sorted(firsts.values(), key=ranked.index)[:MAX_PATHS]
        self.best[prefix] = used[0]
        return tuple(each.path for each in used)

    @invariant()
    def choices_are_what_plain_reading_gives(self) -> None:
        candidates: dict[IPNetwork, list[Candidate]] = {}
        for each in self.model.values():
            for key, (path, until) in each.taken.items():
                verdict = self.policy.admit(path, each.info.session)
                if isinstance(verdict, Path):
                    candidates.setdefault(key[0], []).append(Candidate(verdict, each.info, until is not None))
        self.best = {prefix: best for prefix, best in self.best.items() if prefix in candidates}
        assert self.rib.choices() == {prefix: self.choose(prefix, paths) for prefix, paths in candidates.items()}

    @invariant()
    def states_are_what_is_remembered(self) -> None:
        for address, each in self.model.items():
            state = self.rib.state(address)
            assert state is not None
            stale = [until for _, until in each.taken.values() if until is not None]
            assert (state.paths, state.stale) == (len(each.taken), len(stale))
            unfit = [path for path, _ in each.taken.values() if isinstance(self.policy.admit(path, each.info.session), Refusal)]
            assert sum(state.refused.values()) == len(each.refused) + len(unfit) == len(self.rib.refusals(address))
        untils = [until for each in self.model.values() for _, until in each.taken.values() if until is not None]
        assert self.rib.next_expiry() == min(untils, default=None)

    @invariant()
    def every_path_is_explained_once(self) -> None:
        for prefix, chosen in self.rib.choices().items():
            explained = self.rib.explain(prefix)
            assert tuple(each.path for each in explained if each.chosen) == chosen
            keys = [(each.path.peer, each.path.path_id) for each in explained]
            assert len(keys) == len(set(keys))


RibModel.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestRibModel = RibModel.TestCase
