from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from flanneld.wire.checksum import checksum, updated_checksum, verifies

words = st.integers(0, 0xFFFF)


@given(st.binary(min_size=0, max_size=200))
def test_the_checksum_is_the_one_of_scapy(data: bytes) -> None:
    assert checksum(data) == scapy_checksum(data)


def test_the_example_of_rfc_1071_section_3() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.lists(words, min_size=1, max_size=20), st.integers(0, 19))
def test_data_with_its_checksum_in_it_verifies(values: list[int], place: int) -> None:
    values.insert(place, 0)
    place = values.index(0)
    bare = b"".join(value.to_bytes(2, "big") for value in values)
    stored = checksum(bare).to_bytes(2, "big")
    assert verifies(bare[: place * 2] + stored + bare[place * 2 + 2 :])


def test_nothing_but_zeros_does_not_verify() -> None:
    assert not verifies(bytes(20))


@given(st.lists(words, min_size=2, max_size=20), words)
def test_an_update_equals_a_new_sum_as_in_rfc_1624(values: list[int], new: int) -> None:
    changed = [new, *values[1:]]
    if not any(changed) or not any(values):
        return  # no header is all zeros, and only there minus zero and zero differ
    old_sum, new_sum = (checksum(b"".join(value.to_bytes(2, "big") for value in words)) for words in (values, changed))
    assert updated_checksum(old_sum, values[0], new) == new_sum


def test_the_example_of_rfc_1624_section_4() -> None:
    assert updated_checksum(0xDD2F, 0x5555, 0x3285) == 0x0000
