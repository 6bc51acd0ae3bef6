"""The host-local plugin: which addresses it hands out, and the files that it keeps of them, which others read and write too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cni_chain import conf, gateways, host_local, ips
from cni_errors import Fault, refused
from cni_world import REFERENCE, CniHost, Json

STORE = "/var/lib/cni/networks/net"


def small(start: str = "10.1.2.10", end: str = "10.1.2.12") -> Json:
    ranges = {"subnet": "10.1.2.0/24", "rangeStart": start, "rangeEnd": end}
    return conf("host-local", ipam={"type": "host-local", **ranges})


def taken(host: CniHost) -> set[str]:
    return {name for name in host.files(STORE) if name[0].isdigit() or ":" in name}


def lease_of(host: CniHost, network: Json) -> str:
    (address,) = ips(host.add(network, host.attachment()))
    return address.partition("/")[0]


def test_an_address_is_a_file_with_the_owner_and_del_removes_it(host: CniHost, version: str) -> None:
    network = conf("host-local", version, ipam=host_local("10.1.2.0/24", "2001:db8:1::/64"))
    attachment = host.attachment()
    result = host.add(network, attachment)
    assert ips(result) == ["10.1.2.2/24", "2001:db8:1::2/64"]
    assert gateways(result) == ["10.1.2.1", "2001:db8:1::1"]
    owner = f"{attachment.container_id}\r\neth0"
    expected = {"10.1.2.2": owner, "2001:db8:1::2": owner, "last_reserved_ip.0": "10.1.2.2", "last_reserved_ip.1": "2001:db8:1::2"}
    assert host.files(STORE).items() >= expected.items()
    host.delete(network, attachment)
    assert taken(host) == set()
    assert host.files(STORE)["last_reserved_ip.0"] == "10.1.2.2"


def test_the_result_has_no_interfaces_and_routes_are_passed_on(host: CniHost) -> None:
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.1.2.9"}]
    result = host.add(conf("host-local", ipam=host_local("10.1.2.0/24", routes=routes)), host.attachment())
    assert result["routes"] == routes
    assert "interfaces" not in result
    assert [sorted(ip) for ip in result["ips"]] == [["address", "gateway"]]


def test_one_container_may_have_an_address_per_interface(host: CniHost) -> None:
    network = conf("host-local", ipam=host_local("10.1.2.0/24"))
    first = host.attachment()
    second = replace(first, ifname="eth1")
    assert [ips(host.add(network, attachment)) for attachment in (first, second)] == [["10.1.2.2/24"], ["10.1.2.3/24"]]
    host.delete(network, second)
    assert taken(host) == {"10.1.2.2"}


def test_a_second_add_for_the_same_interface_is_refused_and_takes_nothing(host: CniHost) -> None:
    network = conf("host-local", ipam=host_local("10.1.2.0/24"))
    attachment = host.attachment()
    host.add(network, attachment)
    again = host.call("host-local", "ADD", network, attachment)
    refused(host, again, Fault.OTHER, "10.1.2.2", attachment.container_id, "duplicate allocation is not allowed")
    assert taken(host) == {"10.1.2.2"}


def test_addresses_go_round_so_that_one_given_back_rests_longest(host: CniHost) -> None:
    attachment = host.attachment()
    assert ips(host.add(small(), attachment)) == ["10.1.2.10/24"]
    host.delete(small(), attachment)
    assert [lease_of(host, small()) for _ in range(3)] == ["10.1.2.11", "10.1.2.12", "10.1.2.10"]


def test_when_all_are_taken_the_error_names_the_range_and_one_given_back_is_found(host: CniHost) -> None:
    held = [host.attachment() for _ in range(3)]
    for attachment in held:
        host.add(small(), attachment)
    exhausted = host.call("host-local", "ADD", small(), host.attachment())
    refused(host, exhausted, Fault.LATER, "no IP addresses available in range set: 10.1.2.10-10.1.2.12")
    host.delete(small(), held[1])
    assert lease_of(host, small()) == "10.1.2.11"


def test_nobody_gets_the_network_address_the_gateway_or_the_broadcast_address(host: CniHost) -> None:
    network = conf("host-local", ipam=host_local("10.1.2.0/29"))
    assert [lease_of(host, network) for _ in range(5)] == [f"10.1.2.{n}" for n in range(2, 7)]
    assert host.call("host-local", "ADD", network, host.attachment()).error


def test_the_gateway_of_the_configuration_is_left_out_wherever_it_is(host: CniHost) -> None:
    network = small()
    network["ipam"]["gateway"] = "10.1.2.11"
    assert [lease_of(host, network) for _ in range(2)] == ["10.1.2.10", "10.1.2.12"]


def test_a_set_of_two_ranges_is_used_one_range_after_the_other_and_wraps(host: CniHost) -> None:
    ends = [("10.1.2.0/24", "10.1.2.10", "10.1.2.11"), ("10.1.3.0/24", "10.1.3.10", "10.1.3.10")]
    ranges = [{"subnet": subnet, "rangeStart": start, "rangeEnd": end} for subnet, start, end in ends]
    network = conf("host-local", ipam={"type": "host-local", "ranges": [ranges]})
    held = [host.attachment() for _ in range(3)]
    results = [host.add(network, attachment) for attachment in held]
    assert [ips(result) + gateways(result) for result in results[1:]] == [
        ["10.1.2.11/24", "10.1.2.1"],
        ["10.1.3.10/24", "10.1.3.1"],
    ]
    for attachment in held:
        host.delete(network, attachment)
    assert lease_of(host, network) == "10.1.2.10"
    exhausting = [host.call("host-local", "ADD", network, host.attachment()) for _ in range(3)]
    refused(host, exhausting[2], Fault.LATER, "10.1.2.10-10.1.2.11", "10.1.3.10-10.1.3.10")


def test_what_one_range_set_took_is_given_back_when_the_next_is_exhausted(host: CniHost) -> None:
    narrow = {"subnet": "10.1.3.0/24", "rangeStart": "10.1.3.9", "rangeEnd": "10.1.3.9"}
    network = conf("host-local", ipam={"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [narrow]]})
    host.add(network, host.attachment())
    refused(host, host.call("host-local", "ADD", network, host.attachment()), Fault.LATER, "10.1.3.9-10.1.3.9")
    assert taken(host) == {"10.1.2.2", "10.1.3.9"}


def test_networks_do_not_share_addresses_or_files(host: CniHost) -> None:
    networks = [{**conf("host-local", ipam=host_local("10.1.2.0/24")), "name": name} for name in ("one", "two")]
    assert [lease_of(host, network) for network in networks] == ["10.1.2.2", "10.1.2.2"]
    assert "10.1.2.2" in host.files("/var/lib/cni/networks/two")


def test_data_dir_moves_the_files(host: CniHost) -> None:
    host.add(conf("host-local", ipam=host_local("10.1.2.0/24", dataDir="/run/leases")), host.attachment())
    assert "10.1.2.2" in host.files("/run/leases/net")
    assert host.files(STORE) == {}


def test_a_file_of_somebody_else_is_respected_whatever_is_in_it(host: CniHost) -> None:
    host.put(f"{STORE}/10.1.2.10", "an-id-without-interface")
    host.put(f"{STORE}/last_reserved_ip.0", "10.1.2.12")
    assert lease_of(host, small()) == "10.1.2.11"


@pytest.mark.parametrize("content", ["{id}", "{id}\r\neth0", "  {id}\r\neth0 \n", "{id}\n"])
def test_del_knows_the_old_format_and_does_not_mind_white_space(host: CniHost, content: str) -> None:
    attachment = host.attachment()
    host.put(f"{STORE}/10.1.2.10", content.format(id=attachment.container_id))
    host.delete(small(), attachment)
    assert taken(host) == set()


def test_del_takes_only_the_owners_addresses(host: CniHost) -> None:
    for _ in range(2):
        host.add(small(), host.attachment())
    host.delete(small(), host.attachment())
    assert taken(host) == {"10.1.2.10", "10.1.2.11"}


def test_the_first_call_on_a_machine_writes_nothing_to_stderr(host: CniHost) -> None:
    attachment = host.attachment()
    calls = [host.call("host-local", command, small(), attachment) for command in ("ADD", "DEL", "DEL")]
    assert [call.stderr for call in calls] == ["", "", ""]


def test_adds_at_the_same_time_get_different_addresses(host: CniHost) -> None:
    network = conf("host-local", ipam=host_local("10.1.2.0/24"))
    with ThreadPoolExecutor(8) as threads:
        leases = list(threads.map(lambda _: lease_of(host, network), range(24)))
    assert sorted(leases) == sorted(taken(host)) == sorted(f"10.1.2.{n}" for n in range(2, 26))


@pytest.mark.skipif(bool(REFERENCE.absent()), reason=REFERENCE.absent())
def test_it_shares_its_files_with_the_reference(host: CniHost) -> None:
    reference = replace(host, plugins=REFERENCE)
    first, second, third = (host.attachment() for _ in range(3))
    assert ips(host.add(small(), first)) == ["10.1.2.10/24"]
    assert ips(reference.add(small(), second)) == ["10.1.2.11/24"]
    assert ips(host.add(small(), third)) == ["10.1.2.12/24"]
    host.delete(small(), second)
    reference.delete(small(), third)
    assert taken(host) == {"10.1.2.10"}


def test_check_looks_for_the_containers_address(host: CniHost) -> None:
    attachment = host.attachment()
    result = host.add(small(), attachment)
    host.check(small(), attachment, result).succeeded()
    stranger = host.attachment()
    refused(host, host.check(small(), stranger, result), Fault.OTHER, stranger.container_id)


def test_name_servers_come_from_the_file_that_resolv_conf_names(host: CniHost) -> None:
    host.put("/run/resolv", "domain d.test\nnameserver 192.0.2.53\nsearch a.test b.test\noptions ndots:5\n")
    network = conf("host-local", ipam=host_local("10.1.2.0/24", resolvConf="/run/resolv"))
    expected = {"nameservers": ["192.0.2.53"], "domain": "d.test", "search": ["a.test", "b.test"], "options": ["ndots:5"]}
    assert host.add(network, host.attachment())["dns"] == expected
