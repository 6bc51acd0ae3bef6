from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.lease import Lease, LeaseAttrs
from flanneld.remembered import Remembered, beside, parse, recall, remember, render
from flanneld.subnet_env import SubnetEnvError

networks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda pair: IPv6Network(pair, strict=False)),
)
leases = st.builds(
    Lease,
    st.lists(networks, min_size=1, max_size=2).map(tuple),
    st.builds(LeaseAttrs, st.lists(st.ip_addresses(), max_size=2).map(tuple)),
    created=st.integers(0, 2**62),
)


texts = st.lists(st.text(), max_size=3).map(tuple)


@given(st.builds(Remembered, st.none() | leases, texts, texts))
def test_what_is_rendered_is_read_again(memory: Remembered) -> None:
    assert parse(render(memory)) == memory


@given(st.text() | st.dictionaries(st.sampled_from(["subnets", "created", "publicIPs", "configs"]), st.text()).map(str))
def test_garbage_is_a_value_error_and_nothing_else(text: str) -> None:
    with suppress(ValueError):
        parse(text)


def test_the_file_of_a_version_that_kept_no_fingerprints_is_read_as_well() -> None:
    text = '{"subnets": ["10.244.5.0/24"], "created": 17, "publicIPs": [], "configs": []}'
    assert parse(text).published == ()


def test_it_lies_beside_subnet_env(tmp_path: Path) -> None:
    path = beside(tmp_path / "subnet.env")
    assert recall(path) == Remembered()
    remember(path, memory := Remembered(None, (), ("{}",)))
    assert (path.name, recall(path)) == ("subnet.env.memory", memory)
    path.write_text("garbage")
    with pytest.raises(SubnetEnvError, match=r"cannot read .*subnet\.env\.memory"):
        recall(path)
