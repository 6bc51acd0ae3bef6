"""Every pod to every pod, by ICMP echo; must not know how results are shown."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lab.machines import IPInterface
from lab.pods import Pod

Pair: TypeAlias = tuple[Pod, Pod]

ECHO = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443 §4.1). The kernel fills in checksum and identifier."""
ECHO_REQUEST = {4: 8, 6: 128}
RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
"""Report ICMP errors to the socket (linux/in.h IP_RECVERR, linux/in6.h IPV6_RECVERR)."""
PING_GROUPS = Path("/proc/sys/net/ipv4/ping_group_range")
"""Who in the namespace may send echoes without a raw socket (icmp(7)); IPv6 asks it too."""
TRIES = 3
WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Echo:
    """One pod's answer to another."""

    source: Pod
    destination: Pod
    ip: IPInterface
    """The destination's address that was tried."""
    rtt_s: float | None
    """The best of three; None: no answer."""
    failure: str = ""
    """Why there was none."""


def ping_all(pods: Sequence[Pod]) -> list[Echo]:
    """Ping each address of each pod from each other pod."""
    with ThreadPoolExecutor(max_workers=16) as threads:
        return [echo for echoes in threads.map(lambda source: _ping_from(source, pods), pods) for echo in echoes]


def _ping_from(source: Pod, pods: Sequence[Pod]) -> list[Echo]:
    targets = [(pod, ip) for pod in pods if (pod.host, pod.name) != (source.host, source.name) for ip in pod.addresses]
    answers = source.call(lambda: [_answer(ip) for _, ip in targets])
    return [Echo(source, pod, ip, *answer) for (pod, ip), answer in zip(targets, answers, strict=True)]


def _answer(ip: IPInterface) -> tuple[float | None, str]:
    PING_GROUPS.write_text("0 2147483647")
    rtts = []
    failure = ""
    for number in range(TRIES):
        try:
            rtts.append(_echo(ip, number))
        except TimeoutError:
            failure = f"no answer in {WAIT_S:.0f} s"
        except OSError as error:
            failure = os.strerror(error.errno or 0).lower()
            # A refusal comes at once, and may be over at the next try: a host that was ready first hears of the last one after it.
            time.sleep(WAIT_S)
    return (min(rtts), "") if rtts else (None, failure)


def _echo(ip: IPInterface, number: int) -> float:
    """Seconds until the answer; raises TimeoutError, or OSError with what the network reported."""
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if ip.version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
        sock.setsockopt(*RECVERR[ip.version], 1)
        sock.settimeout(WAIT_S)
        sock.connect((str(ip.ip), 0))
        start = time.perf_counter()
        sock.send(ECHO.pack(ECHO_REQUEST[ip.version], 0, 0, 0, number))
        sock.recv(ECHO.size)  # a new socket has a new identifier: nothing but our answer comes here
        return time.perf_counter() - start
