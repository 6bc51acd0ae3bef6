"""The ledger against a dict, through reopening, compaction and formats of later versions."""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cni import journal
from cni import ledger as module
from cni.journal import Journal, JournalError, read_journal
from cni.ledger import (
    HeldAddress,
    HeldElement,
    HeldFile,
    HeldLink,
    Key,
    Ledger,
    Netns,
    Record,
    State,
    decode_record,
    encode_record,
    read_ledger,
    replay,
)

KEY = Key("net", "c1", "eth0")
HOLDINGS = (
    HeldAddress("/pools/net", ip_address("10.1.0.2")),
    HeldAddress("/pools/net", ip_address("fd00::2")),
    HeldLink("veth1"),
    HeldLink("eth7", tied=False),
    HeldElement("masq", "10.1.0.2", "x"),
    HeldElement("ports", "tcp . 80"),
    HeldFile("/var/lib/cni/flannel/c1"),
)
RECORD = Record(KEY, "bridge", HOLDINGS, Netns("/run/netns/p", 4, 4026532000), State.MAKING, 1_700_000_000.25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_a_record_is_the_same_after_json() -> None:
    told = replace(RECORD, caller="flannel", pod="default/web-1", mtu_from="/run/flannel/subnet.env")
    for record in (RECORD, replace(RECORD, holdings=(), netns=None, state=State.GOING), told, replace(RECORD, mtu_from="")):
        assert decode_record(json.loads(json.dumps(encode_record(record)))) == record


def test_a_record_that_an_earlier_version_wrote_says_less() -> None:
    told = encode_record(replace(RECORD, caller="flannel", pod="default/web-1", mtu_from="/run/flannel/subnet.env"))
    for key in ("caller", "pod", "mtu_from"):
        del told[key]
    assert decode_record(told) == RECORD


def test_a_record_survives_its_process_and_its_state_too(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.write(RECORD)
        ledger.advance(RECORD, State.MADE)
    with Ledger(path) as ledger:
        assert ledger.records() == [replace(RECORD, state=State.MADE)] == read_ledger(path)
        assert ledger.taken("/pools/net") == {address.ip: KEY for address in RECORD.of(HeldAddress)}
        assert not ledger.earlier_boot


def test_plugins_of_an_attachment_have_a_record_each(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.write(RECORD)
        ledger.write(replace(RECORD, plugin="portmap", holdings=()))
        ledger.drop(RECORD)
        assert ledger.record(KEY, "bridge") is None
        assert [record.plugin for record in ledger.records("net")] == ["portmap"]
        assert ledger.records("other") == []


def test_dropping_or_advancing_what_is_not_there_writes_nothing(path: Path) -> None:
    with Ledger(path) as ledger:
        size = path.stat().st_size
        ledger.drop(RECORD)
        assert ledger.advance(RECORD, State.MADE) == RECORD
        assert (ledger.records(), path.stat().st_size) == ([], size)


def test_an_address_that_is_given_back_is_remembered_as_such(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.write(RECORD)
        assert ledger.freed_at("/pools/net", ip_address("10.1.0.2")) == -math.inf
        before = time.monotonic()
        ledger.write(replace(RECORD, state=State.GOING, holdings=RECORD.of(HeldLink)))
        assert before <= ledger.freed_at("/pools/net", ip_address("10.1.0.2")) <= time.monotonic()
        assert ledger.taken("/pools/net") == {}
        ledger.write(RECORD)
        assert ledger.freed_at("/pools/net", ip_address("10.1.0.2")) == -math.inf


def test_only_so_many_given_back_addresses_are_remembered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FREED_KEPT", 3)
    with Ledger(path) as ledger:
        for n in range(1, 6):
            record = replace(RECORD, holdings=(HeldAddress("/p", ip_address(f"10.0.0.{n}")),))
            ledger.write(record)
            ledger.drop(record)
        freed = [ledger.freed_at("/p", ip_address(f"10.0.0.{n}")) for n in range(1, 6)]
        assert [moment == -math.inf for moment in freed] == [True, True, False, False, False]


def test_the_journal_stays_short_however_many_pods_come_and_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_LINES", 10)
    kept = replace(RECORD, key=Key("net", "kept", "eth0"))
    with Ledger(path) as ledger:
        ledger.write(kept)
        for _ in range(100):
            ledger.write(RECORD)
            ledger.drop(RECORD)
            assert len(read_journal(path).entries) <= 14
    assert read_ledger(path) == [kept]


def test_a_disk_too_full_for_a_rewrite_lets_pods_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise JournalError("no space left on device")

    monkeypatch.setattr(module, "SPARE_LINES", 0)
    with Ledger(path) as ledger:
        monkeypatch.setattr(Journal, "rewrite", fail)
        ledger.write(RECORD)
        ledger.drop(RECORD)
        assert ledger.records() == []
    assert read_ledger(path) == []


def test_records_of_an_earlier_boot_are_told_until_that_is_over(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(path) as ledger:
        ledger.write(RECORD)
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(journal, "BOOT_ID", tmp_path / "boot_id")
    monkeypatch.setattr(module, "SPARE_LINES", -10)
    for _ in range(2):  # a process that does not reconcile leaves it to the next
        with Ledger(path) as ledger:
            assert ledger.earlier_boot
            ledger.write(replace(RECORD, plugin="x", holdings=()))
            ledger.drop(replace(RECORD, plugin="x"))
    with Ledger(path) as ledger:
        ledger.begin_boot()
    with Ledger(path) as ledger:
        assert (ledger.earlier_boot, ledger.records()) == (False, [RECORD])


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"hold": None},
        {"hold": {"key": ["a"]}},
        {"hold": encode_record(RECORD) | {"state": "unheard"}},
        {"hold": encode_record(RECORD) | {"addresses": [["p", "x"]]}},
        {"drop": []},
        {"drop": 5},
        {"state": "made"},
        {"state": "unheard", "of": ["net", "c1", "eth0", "bridge"]},
        {"hold": encode_record(RECORD) | {"key": [[], {}, "", ""]}},
        {"later": 1},
    ],
)
def test_what_a_later_version_wrote_is_passed_over(entry: dict[str, Any]) -> None:
    told = {"hold": encode_record(RECORD)}
    assert replay([told, entry]) == {(KEY, "bridge"): RECORD}


keys = st.builds(Key, st.sampled_from(["n1", "n2"]), st.sampled_from(["c1", "c2", "c3"]), st.just("eth0"))
plugins = st.sampled_from(["bridge", "host-local"])


class LedgerMachine(RuleBasedStateMachine):
    """The ledger and a dict, told the same."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "journal"
        self.usual, module.SPARE_LINES = module.SPARE_LINES, 3
        self.ledger = Ledger(self.path)
        self.model: dict[tuple[Key, str], Record] = {}

    @rule(key=keys, plugin=plugins, ips=st.sets(st.integers(1, 5)), link=st.booleans(), state=st.sampled_from(State))
    def write(self, key: Key, plugin: str, ips: set[int], link: bool, state: State) -> None:
        taken = {held.ip for slot, record in self.model.items() if slot != (key, plugin) for held in record.of(HeldAddress)}
        addresses = [HeldAddress("/p", ip) for ip in (ip_address(f"10.0.0.{n}") for n in sorted(ips)) if ip not in taken]
        links = [HeldLink(f"veth{key.container_id}")] if link else []
        record = Record(key, plugin, (*addresses, *links), Netns("/p", 1, 2) if link else None, state, 7.0)
        self.ledger.write(record)
        self.model.pop((key, plugin), None)
        self.model[key, plugin] = record

    @rule(key=keys, plugin=plugins, state=st.sampled_from(State))
    def advance(self, key: Key, plugin: str, state: State) -> None:
        former = self.model.get((key, plugin))
        advanced = self.ledger.advance(former or Record(key, plugin), state)
        if former is not None:
            self.model[key, plugin] = replace(former, state=state)
            assert advanced == self.model[key, plugin]

    @rule(key=keys, plugin=plugins)
    def drop(self, key: Key, plugin: str) -> None:
        self.ledger.drop(Record(key, plugin))
        self.model.pop((key, plugin), None)

    @precondition(lambda self: self.model)
    @rule(torn=st.binary(max_size=9).filter(lambda data: b"\n" not in data))
    def die_and_come_again(self, torn: bytes) -> None:
        self.ledger.close()
        with self.path.open("ab") as file:
            file.write(torn)
        self.ledger = Ledger(self.path)

    @invariant()
    def it_is_as_the_dict(self) -> None:
        assert {(record.key, record.plugin): record for record in self.ledger.records()} == self.model
        holders = {held.ip: record.key for record in self.model.values() for held in record.of(HeldAddress)}
        assert self.ledger.taken("/p") == holders
        assert {(record.key, record.plugin): record for record in read_ledger(self.path)} == self.model

    def teardown(self) -> None:
        module.SPARE_LINES = self.usual
        self.ledger.close()
        self.directory.cleanup()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
