"""Questions about names, answered or left to others: DNS messages (RFC 1035, 3596), sans-IO; must not know sockets."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from runtime.networks.names import IPAddress

TTL_S = 600
"""Docker's; resolvers in containers do not cache."""
PLAIN_BYTES = 512
"""What fits a datagram when the asker says nothing else (RFC 1035 §4.2.1)."""
MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Answering:
    """What one container may know."""

    addresses: Callable[[str], list[IPAddress] | None]
    name: Callable[[IPAddress], str | None]


def answer(wire: bytes, knows: Answering, *, limit: int | None = None) -> bytes | None:
    """The reply to a question about a name or an address that is somebody's here; None: others have to be asked.

    `limit`: bytes that fit, None: what the asker says; a longer reply is cut, with TC set. Raises dns.exception.DNSException when
    it is no question.
    """
    query = dns.message.from_wire(wire)
    if query.flags & dns.flags.QR or query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        return None
    records = _records(query.question[0], knows)
    if records is None:
        return None
    reply = dns.message.make_response(query, recursion_available=True)
    reply.answer += records
    return _fitting(reply, limit if limit is not None else max(PLAIN_BYTES, min(query.payload, MOST_BYTES)))


def refusal(wire: bytes, code: dns.rcode.Rcode) -> bytes:
    """The reply that there is no answer; raises dns.exception.DNSException when it is no question."""
    reply = dns.message.make_response(dns.message.from_wire(wire), recursion_available=True)
    reply.set_rcode(code)
    return bytes(reply.to_wire())


NO_SUCH_NAME, NOT_NOW = dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL


def is_reply_to(reply: bytes, wire: bytes) -> bool:
    """Whether a datagram that came back is about what was asked: the same number, and a reply."""
    return len(reply) >= 12 and reply[:2] == wire[:2] and bool(reply[2] & 0x80)


def _records(question: dns.rrset.RRset, knows: Answering) -> list[dns.rrset.RRset] | None:
    """None: nobody's name. A name of somebody who has nothing of that type has an empty answer."""
    if question.rdclass != dns.rdataclass.IN:
        return None
    if question.rdtype == dns.rdatatype.PTR:
        name = _reverse(question.name, knows)
        return None if name is None else [dns.rrset.from_text(question.name, TTL_S, "IN", "PTR", f"{name}.")]
    found = knows.addresses(question.name.to_text(omit_final_dot=True))
    if found is None:
        return None
    version = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}.get(question.rdtype)
    texts = [str(address) for address in found if address.version == version]
    random.shuffle(texts)  # who takes the first is to find another one each time
    return [dns.rrset.from_text(question.name, TTL_S, "IN", question.rdtype, *texts)] if texts else []


def _reverse(name: dns.name.Name, knows: Answering) -> str | None:
    try:
        return knows.name(ip_address(dns.reversename.to_address(name)))
    except (dns.exception.DNSException, ValueError):
        return None


def _fitting(reply: dns.message.Message, limit: int) -> bytes:
    try:
        return bytes(reply.to_wire(max_size=limit))
    except dns.exception.TooBig:
        reply.answer.clear()
        reply.flags |= dns.flags.TC
        return bytes(reply.to_wire(max_size=limit))
