"""flanneld as the node's CNI daemon: when it serves, what goes on without it, and what its death in the middle of a call costs."""

from __future__ import annotations

import json
import signal
import socket
import stat
import time
from collections.abc import Iterator

import pytest

from cni_daemon_world import FLANNEL, LEASE, SLOWLY_BRIDGED, VERSION, CniLab, Load, cni_lab, waits
from cni_ours import SOCKET
from cni_talk import said
from flanneld_world import NETWORK, PREFIX, eventually

UNREACHABLE = "--etcd-endpoints=http://10.0.0.250:2379"


@pytest.fixture
def lab() -> Iterator[CniLab]:
    with cni_lab() as up:
        yield up


def test_only_root_may_speak_to_it(lab: CniLab) -> None:
    lab.world.start("h1").await_said("CNI is served")
    at = lab.host.call(SOCKET.stat)
    assert (stat.S_ISSOCK(at.st_mode), stat.S_IMODE(at.st_mode), at.st_uid) == (True, 0o600, 0)
    unable = lab.host.run(["setpriv", "--reuid=65534", "--clear-groups", "--", "test", "-w", str(SOCKET)], check=False)
    assert unable.returncode == 1


def test_pods_come_and_go_before_etcd_answers(lab: CniLab) -> None:
    lab.lease_of_last_time()
    before = lab.held()
    lab.world.start("h1", UNREACHABLE).await_said("CNI is served")
    attachment, result = lab.pod({8080: 80})
    assert result["ips"][0]["address"] == "10.244.7.2/24"
    lab.status().succeeded()
    lab.chain.check(attachment, result)
    lab.chain.delete(attachment, result)
    assert lab.is_left_with(before)


def test_the_node_is_not_ready_until_there_is_a_lease(lab: CniLab) -> None:
    lab.world.etcd.delete(f"{PREFIX}/config")
    flanneld = lab.world.start("h1")
    flanneld.await_said("CNI is served")
    assert lab.status().error["code"] == 50
    lab.cni.call("portmap", "STATUS", {"cniVersion": VERSION, "name": "n"}).succeeded()
    assert lab.cni.call("flannel", "ADD", {**FLANNEL, "name": "cbr0"}, lab.cni.attachment()).error["code"] == 11
    lab.world.configure(NETWORK)
    flanneld.ready()
    lab.status().succeeded()


def test_without_a_daemon_everything_works_and_the_node_says_that_it_is_not_ready(lab: CniLab) -> None:
    before = lab.held()
    assert lab.cni.call("flannel", "VERSION", {"cniVersion": VERSION}).result["supportedVersions"][-1] == VERSION
    lab.chain.delete(lab.cni.attachment())
    assert lab.cni.call("flannel", "ADD", {**FLANNEL, "name": "cbr0"}, lab.cni.attachment()).error["code"] == 11
    lab.lease_of_last_time()
    attachment, result = lab.pod({8080: 80})
    assert lab.status().error["code"] == 50
    lab.chain.check(attachment, result)
    lab.chain.delete(attachment, result)
    assert lab.is_left_with(before)


def test_a_pod_without_a_daemon_is_taken_over_by_the_next_one(lab: CniLab) -> None:
    lab.lease_of_last_time()
    before = lab.held()
    attachment, result = lab.pod({8080: 80})
    held = lab.held()
    lab.world.start("h1", UNREACHABLE).await_said("CNI is served")
    assert lab.held() == held
    lab.chain.check(attachment, result)
    lab.chain.delete(attachment, result)
    assert lab.is_left_with(before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_under_load_costs_no_call_more_than_another_try(lab: CniLab, number: int) -> None:
    lab.lease_of_last_time()
    before = lab.held()
    load = Load(lab, workers=6)
    flanneld = lab.world.start("h1", UNREACHABLE)
    flanneld.await_said("CNI is served")
    with load.under_way():
        for _ in range(3):
            time.sleep(0.6)
            flanneld.end(number)
            time.sleep(0.2)
            flanneld = lab.world.start("h1", UNREACHABLE)
            flanneld.await_said("CNI is served")
    print(f"{load.added} pods, {load.refused} refused")
    assert load.wrong == []
    assert load.added > 20
    assert lab.is_left_with(before)


def test_an_add_whose_client_is_killed_is_rolled_back(lab: CniLab) -> None:
    lab.lease_of_last_time()
    before = lab.held()
    lab.world.start("h1", UNREACHABLE).await_said("CNI is served")
    conf = {**FLANNEL, "name": "cbr0", "cniVersion": VERSION}
    for half_ms in range(30):
        attachment = lab.cni.attachment()
        client = lab.begin(conf, attachment)
        time.sleep(half_ms / 2000)
        client.kill()
        if (ended := waits(client)).exit_code == 0:
            lab.cni.delete({**conf, "prevResult": ended.result}, attachment)
        assert lab.is_left_with(before)


def test_an_add_whose_client_hangs_up_when_it_has_asked_is_rolled_back(lab: CniLab) -> None:
    lab.lease_of_last_time()
    before = lab.held()
    lab.world.start("h1", UNREACHABLE).await_said("CNI is served")
    for _ in range(20):
        attachment = lab.cni.attachment()
        pod = lab.cni.place.call(open, attachment.netns)
        message = said(
            "flannel", {**attachment.environment(), "CNI_COMMAND": "ADD"}, json.dumps({**FLANNEL, "name": "cbr0"}).encode()
        )
        with pod, lab.host.call(socket.socket, socket.AF_UNIX) as client:
            lab.host.call(client.connect, str(SOCKET))
            socket.send_fds(client, [message], [pod.fileno()])
        assert lab.is_left_with(before)


def test_a_client_that_is_killed_while_a_foreign_plugin_works_leaves_nothing(lab: CniLab) -> None:
    lab.install_slow_ipam()
    lab.world.start("h1", UNREACHABLE).await_said("CNI is served")
    before = lab.held()
    client = lab.begin(SLOWLY_BRIDGED, lab.cni.attachment())
    eventually(lab.asked_slow_ipam, "the IPAM plugin at work")
    client.kill()
    waits(client)
    eventually(lambda: lab.asked_slow_ipam() == ["ADD", "DEL"], "the address given back")
    assert lab.is_left_with(before)


def test_a_del_that_comes_while_the_add_is_under_way_leaves_nothing(lab: CniLab) -> None:
    lab.install_slow_ipam()
    lab.world.start("h1", UNREACHABLE).await_said("CNI is served")
    before, attachment = lab.held(), lab.cni.attachment()
    adding = lab.begin(SLOWLY_BRIDGED, attachment)
    eventually(lab.asked_slow_ipam, "the IPAM plugin at work")
    lab.cni.delete(SLOWLY_BRIDGED, attachment)
    assert waits(adding).result["ips"][0]["address"] == "10.77.0.2/24"
    assert lab.asked_slow_ipam() == ["ADD", "DEL"]
    assert lab.is_left_with({**before, "links": before["links"] | {"slow0"}})  # type: ignore[operator]


def test_a_second_flanneld_of_the_host_waits_its_turn(lab: CniLab) -> None:
    first = lab.world.start("h1").ready()
    lab.world.configure({**NETWORK, "Network": "10.99.0.0/16", "Backend": {"Type": "vxlan", "VNI": 9}}, "/other")
    own = ("--etcd-prefix=/other", "--subnet-file=/run/flannel/other.env", "--healthz-port=8472")
    second = lab.world.start("h1", *own).ready()
    assert "locked by another process" in second.await_said("CNI is not served")["why"]
    attachment, result = lab.pod()
    first.end()
    second.await_said("CNI is served")
    lab.chain.check(attachment, result)
    lab.chain.delete(attachment, result)


def test_the_lease_of_last_time_is_what_pods_go_by_until_there_is_another(lab: CniLab) -> None:
    lab.lease_of_last_time(LEASE.replace("10.244.7.", "10.244.77."))
    lab.world.start("h1").ready()
    assert lab.pod()[1]["ips"][0]["address"] == "10.244.77.2/24"
