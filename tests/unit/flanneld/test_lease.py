"""Which subnet a host claims: pools, `choose_subnet` and `choose_claim`, which are pure."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flanneld.config import NetworkConfig, parse_network
from flanneld.lease import IPNetwork, Lease, LeaseAttrs, Pool, Subnets, SubnetsExhausted, choose_subnet, overlap
from flanneld.store import LeaseLost, choose_claim, choose_hold, fits, is_ours, owns

NETWORK = parse_network('{"Network": "10.5.0.0/24", "SubnetLen": 28}')
DUAL = parse_network(
    json.dumps(
        {"Network": "10.5.0.0/24", "SubnetLen": 28, "EnableIPv6": True, "IPv6Network": "fd00:5::/60", "IPv6SubnetLen": 64},
    )
)
(POOL,) = NETWORK.pools

pools = st.sampled_from(
    [
        POOL,
        Pool(ip_network("10.5.0.0/16"), 24, ip_network("10.5.40.0/24"), ip_network("10.5.42.0/24")),
        Pool(ip_network("10.5.0.0/16"), 24, ip_network("10.5.7.0/24"), ip_network("10.5.7.0/24")),
        Pool(ip_network("fd00:5::/48"), 64, ip_network("fd00:5:0:1::/64"), ip_network("fd00:5:0:ffff::/64")),
        Pool(ip_network("fd00:5::/122"), 126, ip_network("fd00:5::4/126"), ip_network("fd00:5::3c/126")),
    ]
)
seeds = st.integers(0, 2**64 - 1)


def nets(*texts: str) -> Subnets:
    return tuple(map(ip_network, texts))


def wish(subnets: Subnets) -> Lease:
    """What a host that knows only its subnets from last time brings along."""
    return Lease(subnets, LeaseAttrs(()))


def host(*ips: str) -> LeaseAttrs:
    return LeaseAttrs(tuple(map(ip_address, ips)))


def lease(attrs: LeaseAttrs, *subnets: str) -> Lease:
    return Lease(nets(*subnets), attrs)


A, B, C = host("192.0.2.1"), host("192.0.2.2"), host("192.0.2.3")


def networks_near(pool: Pool) -> st.SearchStrategy[IPNetwork]:
    """Networks of any length that begin on an address of the pool's network."""
    bits = pool.network.max_prefixlen
    addresses = st.integers(int(pool.network.network_address), int(pool.network.broadcast_address))
    lengths = st.integers(max(pool.network.prefixlen, bits - 20), bits)
    kind = type(pool.network.network_address)
    return st.builds(lambda address, length: ip_network((kind(address), length), strict=False), addresses, lengths)


def members(pool: Pool) -> list[IPNetwork]:
    return [pool[place] for place in range(min(pool.size, 300))]


@given(pools, st.data())
def test_every_place_of_a_pool_is_inside_it_and_has_its_own_subnet(pool: Pool, data: st.DataObject) -> None:
    one, other = (data.draw(st.integers(0, pool.size - 1)) for _ in range(2))
    assert pool[one] in pool
    assert pool[one].prefixlen == pool.subnet_len
    assert pool.span(pool[one]) == (one, one)
    assert one == other or not overlap((pool[one],), (pool[other],))
    assert (pool[0], pool[pool.size - 1]) == (pool.first, pool.last)


@given(pools, st.data())
def test_a_span_is_what_overlaps(pool: Pool, data: st.DataObject) -> None:
    network = data.draw(networks_near(pool))
    places = [place for place, member in enumerate(members(pool)) if overlap((member,), (network,))]
    span = pool.span(network)
    assert places == ([] if span is None else [place for place in range(span[0], span[1] + 1) if place < 300])


@pytest.mark.parametrize("subnet", ["10.5.0.0/28", "10.5.1.0/28", "10.5.0.16/29", "10.5.0.0/24", "fd00:5::/64"])
def test_what_the_pool_would_not_hand_out_is_not_in_it(subnet: str) -> None:
    assert ip_network(subnet) not in POOL


def test_the_other_family_has_no_span() -> None:
    assert POOL.span(ip_network("::/0")) is None


@given(pools, seeds, st.data())
def test_the_chosen_subnet_is_inside_free_and_stable(pool: Pool, seed: int, data: st.DataObject) -> None:
    taken = data.draw(st.lists(networks_near(pool), max_size=8))
    try:
        chosen = choose_subnet(pool, taken, seed)
    except SubnetsExhausted:
        assert all(overlap((member,), taken) for member in members(pool))
        return
    assert chosen in pool
    assert not overlap((chosen,), taken)
    assert choose_subnet(pool, reversed(taken), seed) == chosen


@given(pools, seeds, st.data())
def test_a_choice_is_not_moved_by_what_is_taken_elsewhere(pool: Pool, seed: int, data: st.DataObject) -> None:
    chosen = choose_subnet(pool, (), seed)
    taken = data.draw(st.lists(networks_near(pool), max_size=8))
    assume(not overlap((chosen,), taken))
    assert choose_subnet(pool, taken, seed) == chosen


@given(seeds)
def test_hosts_one_after_the_other_use_up_the_whole_pool(seed: int) -> None:
    taken: list[IPNetwork] = []
    for place in range(POOL.size):
        taken.append(choose_subnet(POOL, taken, seed + 7 * place))
    assert sorted(map(int, (net.network_address for net in taken))) == [int(net.network_address) for net in members(POOL)]
    with pytest.raises(SubnetsExhausted, match=r"no free /28 left from 10\.5\.0\.16/28 to 10\.5\.0\.240/28: all 15 subnets"):
        choose_subnet(POOL, taken, seed)


def test_a_pool_of_four_million_is_chosen_from_at_once() -> None:
    wide = Pool(IPv4Network("10.0.0.0/8"), 30, IPv4Network("10.0.0.4/30"), IPv4Network("10.255.255.252/30"))
    assert choose_subnet(wide, [IPv4Network("10.0.0.0/9")], seed=0) == IPv4Network("10.128.0.0/30")


def test_our_own_lease_is_claimed_first() -> None:
    leases = [lease(B, "10.5.0.16/28"), lease(A, "10.5.0.32/28")]
    claim = choose_claim(NETWORK, leases, A, wish(nets("10.5.0.48/28")))
    assert (claim.subnets, claim.ours, claim.misfits) == (nets("10.5.0.32/28"), leases[1], ())


def test_of_several_leases_of_ours_the_preferred_one_is_claimed() -> None:
    leases = [lease(A, "10.5.0.16/28"), lease(A, "10.5.0.32/28")]
    assert choose_claim(NETWORK, leases, A, wish(nets("10.5.0.32/28"))).ours == leases[1]


def test_a_free_preferred_subnet_comes_next() -> None:
    claim = choose_claim(NETWORK, [lease(B, "10.5.0.16/28")], A, wish(nets("10.5.0.48/28")))
    assert (claim.subnets, claim.ours) == (nets("10.5.0.48/28"), None)


@pytest.mark.parametrize("prefer", ["10.5.0.16/28", "10.5.0.0/28", "10.5.0.32/29", "10.6.0.16/28"])
def test_a_preferred_subnet_that_is_taken_or_does_not_fit_is_passed_over(prefer: str) -> None:
    claim = choose_claim(NETWORK, [lease(B, "10.5.0.16/28")], A, wish(nets(prefer)))
    assert claim.subnets != nets(prefer)
    assert fits(NETWORK, claim.subnets)


def test_a_preferred_pair_is_passed_over_when_one_family_of_it_is_taken() -> None:
    wanted = nets("10.5.0.48/28", "fd00:5:0:3::/64")
    claim = choose_claim(DUAL, [lease(B, "10.5.0.16/28", "fd00:5:0:3::/64")], A, wish(wanted))
    assert claim.subnets != wanted
    assert not overlap(claim.subnets, nets("fd00:5:0:3::/64"))


def test_our_leases_that_do_not_fit_any_more_are_misfits_and_free_again() -> None:
    old = [lease(A, "10.6.0.0/24"), lease(A, "10.5.0.0/25"), lease(A, "10.5.0.128/25")]
    claim = choose_claim(NETWORK, [*old, lease(B, "10.6.1.0/24")], A)
    assert claim.misfits == tuple(old)
    assert claim.ours is None


def test_an_attempt_after_a_lost_claim_looks_elsewhere() -> None:
    claims = {choose_claim(NETWORK, [], A, wish(nets("10.5.0.48/28")), attempt=attempt).subnets for attempt in range(8)}
    assert len(claims) > 3


@given(st.lists(st.integers(1, 250), unique=True, max_size=15), st.sampled_from([NETWORK, DUAL]))
def test_claims_never_overlap(numbers: list[int], network: NetworkConfig) -> None:
    leases: list[Lease] = []
    for number in numbers:
        attrs = host(f"192.0.2.{number}")
        claim = choose_claim(network, leases, attrs)
        assert fits(network, claim.subnets)
        assert not any(overlap(claim.subnets, other.subnets) for other in leases)
        leases.append(Lease(claim.subnets, attrs))
        assert choose_claim(network, leases, attrs).ours == leases[-1]


def test_a_host_is_known_by_its_first_family_that_the_lease_has_too() -> None:
    both = host("192.0.2.1", "2001:db8::1")
    assert owns(both, lease(host("192.0.2.1", "2001:db8::9"), "10.5.0.16/28"))
    assert owns(both, lease(host("2001:db8::1"), "10.5.0.16/28"))
    assert not owns(both, lease(host("192.0.2.9", "2001:db8::1"), "10.5.0.16/28"))
    assert not owns(host("2001:db8::1"), lease(host("2001:db8::2"), "fd00:5:0:1::/64"))
    assert not owns(host("192.0.2.1"), lease(host("2001:db8::1"), "10.5.0.16/28"))
    assert not owns(both, lease(LeaseAttrs(()), "10.5.0.16/28"))


def test_a_claim_is_known_again_by_its_creation_when_our_address_has_changed() -> None:
    former = Lease(nets("10.5.0.16/28"), A, created=7)
    assert is_ours(C, former, former)
    assert choose_claim(NETWORK, [former], C, former).ours == former
    for other in (replace(former, created=8), replace(former, attrs=B), replace(former, subnets=nets("10.5.0.32/28"))):
        assert not is_ours(C, former, other), "another claim, another host's, another subnet's"
    assert is_ours(C, former, replace(former, attrs=LeaseAttrs(()))), "garbage was written over it"
    assert not is_ours(C, wish(former.subnets), former), "a wish is no claim"


def test_a_claim_of_an_older_time_is_known_by_what_we_published_then() -> None:
    former, restored = Lease(nets("10.5.0.16/28"), A, created=7), Lease(nets("10.5.0.16/28"), B, created=3)
    assert not is_ours(C, former, restored)
    assert is_ours(C, former, restored, [B.fingerprint()])
    assert choose_claim(NETWORK, [restored], C, former, [B.fingerprint()]).ours == restored
    assert not is_ours(C, former, replace(restored, created=8), [B.fingerprint()]), "a host that has our old address now"


def test_hold_claims_what_is_free_or_ours_and_gives_up_our_others() -> None:
    mine, other = lease(A, "10.5.0.16/28"), lease(A, "10.5.0.32/28")
    assert choose_hold([], mine, A).ours is None
    claim = choose_hold([mine, other, lease(B, "10.5.0.48/28")], mine, A)
    assert (claim.ours, claim.misfits) == (mine, (other,))
    claim.require_free()


def test_hold_names_who_is_in_the_way_after_giving_up_what_is_in_theirs() -> None:
    mine, stale, rival = lease(A, "10.5.0.16/28"), lease(A, "10.5.0.32/28"), lease(B, "10.5.0.16/28")
    claim = choose_hold([stale, rival], mine, A)
    assert claim.misfits == (stale,)
    with pytest.raises(LeaseLost, match=r"^lease 10\.5\.0\.16/28 is held by 192\.0\.2\.2$"):
        claim.require_free()
