"""Messages about elements, tables and rules: against what nft(8) sends, and against themselves."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from cni.packet_rules import BRIDGE, FIREWALL, TABLES, TRANSLATION
from flanneld.linux.message import MalformedMessage, Message, attributes, split_messages
from flanneld.linux.nft_elements import Element, concerns, decode_elements, encode_element
from flanneld.linux.nft_expressions import host_order, set_mark
from flanneld.linux.nft_tables import NftFamily, NftSet, NftTable, NftType, delete_table, key_size, replace_table

MAP = NftSet("ports6", (NftType.INET_PROTO, NftType.INET_SERVICE), (NftType.IPV6_ADDR, NftType.INET_SERVICE))
TABLE = NftTable(NftFamily.INET, "t", (MAP,), ())
NEWSETELEM, DELSETELEM = 10 << 8 | 12, 10 << 8 | 14

# nft --debug=mnl add element inet t ports6 '{ tcp . 8080 : fd00::1 . 80 }': its last attribute, lengths little-endian.
ELEMENTS_OF_NFT = bytes.fromhex(
    "34000380 30000180 10000180 0c000100 06000000 1f900000 1c000280 18000100 fd000000 00000000 00000000 00000001 00500000"
)
elements = st.builds(
    Element,
    st.sampled_from(["ports4", "near6"]),
    st.binary(min_size=1, max_size=64),
    st.binary(max_size=40),
    st.binary(max_size=64),
)


def test_an_element_is_encoded_as_nft_does() -> None:
    element = Element("ports6", bytes.fromhex("060000001f900000"), bytes.fromhex("fd00000000000000000000000000000100500000"))
    message = encode_element(TABLE, element)
    assert message.kind == NEWSETELEM
    assert message.body.endswith(ELEMENTS_OF_NFT)


@given(elements)
def test_what_is_encoded_is_decoded(element: Element) -> None:
    assert list(decode_elements(encode_element(TABLE, element))) == [element]


def test_taking_an_element_out_does_not_name_its_value() -> None:
    message = encode_element(TABLE, Element("ports6", b"key8" * 2, b"value"), delete=True)
    assert message.kind == DELSETELEM
    assert list(decode_elements(message)) == [Element("ports6", b"key8" * 2)]


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_malformed(body: bytes) -> None:
    try:
        list(decode_elements(Message(NEWSETELEM, body)))
    except MalformedMessage:
        return


def notice(message: Message, port: int = 7) -> bytes:
    encoded = bytearray(message.encode(1))
    struct.pack_into("=I", encoded, 12, port)
    return bytes(encoded)


def test_a_change_to_our_table_concerns_us_unless_we_made_it() -> None:
    change = notice(encode_element(TRANSLATION, Element("ports4", b"12345678")))
    assert concerns(change, TABLES.values())
    assert not concerns(change, TABLES.values(), ours=(7,))


def test_a_table_of_our_name_in_another_family_is_not_ours() -> None:
    assert not concerns(notice(delete_table(BRIDGE)[1]), [TRANSLATION])
    assert concerns(notice(delete_table(BRIDGE)[1]), [BRIDGE])


def test_a_new_generation_concerns_nobody() -> None:
    assert not concerns(notice(Message(10 << 8 | 15, bytes(12))), TABLES.values())


def test_a_table_is_made_after_the_one_that_was_there_has_gone() -> None:
    kinds = [message.kind & 0xFF for message in replace_table(FIREWALL)]
    assert kinds[:3] == [0, 2, 0]
    assert kinds[3:] == sorted(kinds[3:], key=[9, 3, 6].index)  # sets, chains, rules: each names what is before it


def test_every_message_of_every_table_is_well_formed() -> None:
    for table in TABLES.values():
        for message in replace_table(table):
            (again,) = split_messages(message.encode(1))
            assert attributes(again.body, 4)[1] == table.name.encode() + b"\0"


def test_fields_beside_each_other_are_padded_and_one_alone_is_not() -> None:
    assert key_size((NftType.ETHER_ADDR,)) == 6
    assert key_size((NftType.IFNAME, NftType.ETHER_ADDR)) == 24
    assert key_size((NftType.INET_PROTO, NftType.INET_SERVICE)) == 8


def test_setting_a_bit_of_the_mark_keeps_the_others() -> None:
    expression = set_mark(0x2000, True)
    assert host_order(0xFFFF_DFFF) in expression
    assert host_order(0x2000) in expression
    assert host_order(0x2000) not in set_mark(0x2000, False)
