"""flanneld.linux.tc: bytes, with pyroute2 as the second opinion; `tc` is that of tests/netns/test_cni_bandwidth.py."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from flanneld.linux import tc
from flanneld.linux.message import Message, attributes

BUCKETS = st.builds(tc.TokenBucket, st.integers(1, 2**40), st.integers(1, 2**31))


def read(kind: int, body: bytes) -> Any:
    shown = tcmsg(Message(kind, body).encode(1))
    shown.decode()
    return shown


def test_pyroute2_reads_our_token_bucket() -> None:
    shown = read(tc.RTM_NEWQDISC, tc.encode_token_bucket(7, tc.TokenBucket(1_000_000, 10_000)))
    assert (shown["index"], shown["handle"], shown["parent"], shown.get_attr("TCA_KIND")) == (7, 0x10000, tc.TC_H_ROOT, "tbf")
    parms = shown.get_attr("TCA_OPTIONS").get_attr("TCA_TBF_PARMS")
    assert (parms["rate"], parms["limit"], parms["buffer"], parms["peak"]) == (1_000_000, 35_000, 156_250, 0)
    assert shown.get_attr("TCA_OPTIONS").get_attr("TCA_TBF_RTAB") is None


def test_a_rate_beyond_32_bits_has_an_attribute_of_its_own() -> None:
    body = tc.encode_token_bucket(7, tc.TokenBucket(10**10, 10**9))
    options = attributes(attributes(body, tc.TCMSG.size)[tc.TCA_OPTIONS])
    assert struct.unpack("=Q", options[tc.TCA_TBF_RATE64]) == (10**10,)
    assert tc.RATESPEC.unpack(tc.TBF.unpack(options[tc.TCA_TBF_PARMS])[0])[-1] == tc.U32_MAX


@given(BUCKETS)
def test_a_token_bucket_decodes_to_itself(bucket: tc.TokenBucket) -> None:
    decoded = tc.decode_token_bucket(Message(tc.RTM_NEWQDISC, tc.encode_token_bucket(7, bucket)))
    assert decoded is not None
    assert (decoded.rate, decoded.limit) == (bucket.rate, bucket.limit)
    assert decoded == bucket or bucket.limit == tc.U32_MAX


def test_another_queue_is_no_token_bucket() -> None:
    body = tc.encode_token_bucket(7, tc.TokenBucket(1, 1)).replace(b"tbf\0", b"red\0")
    assert tc.decode_token_bucket(Message(tc.RTM_NEWQDISC, body)) is None


def test_pyroute2_reads_our_u32_filter() -> None:
    shown = read(tc.RTM_NEWTFILTER, tc.encode_redirection("u32", 7, 9))
    assert (shown["index"], shown["parent"], shown.get_attr("TCA_KIND")) == (7, 0xFFFF0000, "u32")
    assert shown["info"] == 1 << 16 | 0x0300  # priority 1, ETH_P_ALL in network order
    selector = shown.get_attr("TCA_OPTIONS").get_attr("TCA_U32_SEL")
    assert (selector["flags"], selector["nkeys"], selector["keys"][0]["key_mask"]) == (1, 1, 0)


@pytest.mark.parametrize(("classifier", "place"), [("u32", tc.TCA_U32_ACT), ("matchall", tc.TCA_MATCHALL_ACT)])
def test_the_action_of_either_filter_is_a_redirection(classifier: str, place: int) -> None:
    message = Message(tc.RTM_NEWTFILTER, tc.encode_redirection(classifier, 7, 9))
    assert tc.decode_redirection(message) == 9
    options = attributes(attributes(message.body, tc.TCMSG.size)[tc.TCA_OPTIONS])
    action = attributes(attributes(options[place])[1])
    assert action[tc.TCA_ACT_KIND] == b"mirred\0"
    index, _capab, then, *_, egress, to = tc.MIRRED.unpack(attributes(action[tc.TCA_ACT_OPTIONS])[tc.TCA_MIRRED_PARMS])
    assert (index, then, egress, to) == (0, tc.TC_ACT_STOLEN, tc.TCA_EGRESS_REDIR, 9)


def test_pyroute2_reads_our_matchall_filter() -> None:
    shown = read(tc.RTM_NEWTFILTER, tc.encode_redirection("matchall", 7, 9))
    action = shown.get_attr("TCA_OPTIONS").get_attr("TCA_MATCHALL_ACT").get_attr("TCA_ACT_PRIO_1")
    assert action.get_attr("TCA_ACT_KIND") == "mirred"
    assert action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")["ifindex"] == 9


def test_other_filters_redirect_nowhere() -> None:
    body = tc.encode_redirection("u32", 7, 9)
    assert tc.decode_redirection(Message(tc.RTM_NEWTFILTER, body.replace(b"u32\0", b"bpf\0"))) == 0
    assert tc.decode_redirection(Message(tc.RTM_NEWTFILTER, body.replace(b"mirred", b"sample"))) == 0
    assert tc.decode_redirection(Message(tc.RTM_NEWTFILTER, tc.TCMSG.pack(0, 7, 0, 0, 0))) == 0
