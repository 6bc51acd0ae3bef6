"""host-local: addresses out of ranges of this host's own. Keys and files are the reference's: either can follow on the other.

Who holds which address is in the ledger. Beside it, each address is a file dataDir/NETWORK/IP that says "CONTAINER\\r\\nIFNAME", as
the reference keeps them: a file that the ledger does not know is another program's claim, and is respected.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path

from cni.config import Section
from cni.files import file_names, write_file
from cni.ipam_config import parse_routes, read_resolv_conf, requested_ips
from cni.ledger import HeldAddress, Key, Record
from cni.node import Node, is_finished
from cni.plugin import Request
from cni.ranges import Range, RangeSet, check_apart, choose, parse_range, parse_range_set
from cni.result import Dns, Ip, IPAddress, PodRoute, Result
from cni.spec import CniError, Code, Command, at_least
from flanneld.log import Log

log = Log(__name__)

DATA_DIR = "/var/lib/cni/networks"
REST_S = 60.0
"""For how long an address that was given back is the last choice: somebody may still believe it to be its former holder's."""
LINK_GONE_S = 0.2
"""No address is given out sooner: its former holder's link may be there that long after the answer to DEL."""


@dataclass(frozen=True, slots=True)
class HostLocal:
    """The `ipam` object, checked."""

    pool: Path
    """dataDir/NETWORK."""
    sets: tuple[RangeSet, ...]
    routes: tuple[PodRoute, ...]
    dns: Dns
    requested: tuple[IPAddress, ...]


def parse(request: Request) -> HostLocal:
    """Raises CniError (2, 7)."""
    ipam = request.config.part("ipam")
    ipam.ignore("type")
    keys = ("subnet", "rangeStart", "rangeEnd", "gateway")
    asked = [parse_range_set(each, "ipRanges") for each in request.runtime.section_lists("ipRanges")]
    own = [RangeSet((parse_range(ipam),))] if ipam.get("subnet") else []
    ipam.ignore(*keys)
    told = [parse_range_set(each, "ipam.ranges") for each in ipam.section_lists("ranges")]
    sets = (*asked, *own, *told)
    config = HostLocal(
        Path(ipam.text("dataDir", DATA_DIR)) / request.network,
        sets,
        parse_routes(ipam),
        read_resolv_conf(ipam),
        requested_ips(request),
    )
    if request.call.command is not Command.DEL:
        ipam.finish()
    _check_sets(request, sets)
    return config


def _check_sets(request: Request, sets: Collection[RangeSet]) -> None:
    if not sets:
        raise CniError(Code.INVALID_CONFIG, "ipam: got neither subnet nor ranges, expected one of them")
    check_apart(tuple(sets))
    families = [each.ranges[0].subnet.version for each in sets]
    if not at_least(request.version, "0.3.0") and len(set(families)) < len(families):
        raise CniError(Code.INVALID_CONFIG, f"CNI version {request.version} does not support more than 1 address per family")


def add(request: Request, node: Node) -> Result:
    """One address out of each range set."""
    config = parse(request)
    while True:
        with node.ledger.lock:
            held = node.ledger.record(request.key, request.plugin)
            if held is not None:
                _replace_leftover(request, node, held)
            chosen = list(_choose(config, node))
            wait_s = LINK_GONE_S - min(_rested_s(config.pool, node, ip) for ip, _ in chosen)
            if wait_s <= 0 and _hold(request, node, config, [ip for ip, _ in chosen]):
                break
        request.alive()
        time.sleep(max(wait_s, 0))
    ips = tuple(Ip(ip_interface((ip, within.subnet.prefixlen)), within.gateway) for ip, within in chosen)
    return Result(ips=ips, routes=config.routes, dns=config.dns)


def _hold(request: Request, node: Node, config: HostLocal, chosen: Sequence[IPAddress]) -> bool:
    """Take the addresses; false when another program took one just now. When it raises, none is taken."""
    record = node.hold(request, *(HeldAddress(str(config.pool), ip) for ip in chosen))
    try:
        for place, ip in enumerate(chosen):
            _claim(config.pool, ip, request.key)
            write_file(f"{config.pool}/last_reserved_ip.{place}", str(ip))
    except FileExistsError:
        node.release(record)
        return False
    except BaseException:
        node.release(record)
        raise
    return True


def _replace_leftover(request: Request, node: Node, held: Record) -> None:
    """An ADD again without a DEL between: its pod may have died with its host's memory of it, or the first ADD half way."""
    finished = is_finished(held, [record for record in node.ledger.records(held.key.network) if record.key == held.key])
    if finished and (request.netns is None or node.is_same(held, request.netns)):
        ips = ", ".join(str(address.ip) for address in held.of(HeldAddress))
        raise CniError(Code.FAILED, f"{ips} has been allocated to {request.key}, duplicate allocation is not allowed")
    node.release(held)


def _choose(config: HostLocal, node: Node) -> Iterator[tuple[IPAddress, Range]]:
    """An address for each range set: one that is asked for, else the next one."""
    taken = node.ledger.taken(str(config.pool))
    asked = list(config.requested)
    for place, wanted in enumerate(config.sets):
        ip = next(filter(wanted.of, asked), None)
        if ip is None:
            yield _next(config.pool, node, wanted, place)
        else:
            asked.remove(ip)
            yield ip, _requested(ip, wanted, config.pool, taken)
    if asked:
        ips = ", ".join(map(str, sorted(asked, key=int)))
        raise CniError(Code.FAILED, f"failed to allocate all requested IPs: {ips}", "they are in none of the ranges")


def _next(pool: Path, node: Node, wanted: RangeSet, place: int) -> tuple[IPAddress, Range]:
    taken = node.ledger.taken(str(pool))

    def free(ip: IPAddress) -> bool:
        return ip not in taken and not os.path.exists(f"{pool}/{ip}")

    return choose(wanted, _last(pool, place), free, lambda ip: _rested_s(pool, node, ip) > REST_S)


def _rested_s(pool: Path, node: Node, ip: IPAddress) -> float:
    return time.monotonic() - node.ledger.freed_at(str(pool), ip)


def _requested(ip: IPAddress, wanted: RangeSet, pool: Path, taken: Collection[IPAddress]) -> Range:
    within = wanted.of(ip)
    if within is None or ip == within.gateway:
        raise CniError(Code.FAILED, f"requested ip {ip} is subnet's gateway")
    if ip in taken or (pool / str(ip)).exists():
        raise CniError(Code.FAILED, f"requested IP address {ip} is not available in range set {wanted}")
    return within


def _last(pool: Path, place: int) -> IPAddress | None:
    with suppress(OSError, ValueError), open(f"{pool}/last_reserved_ip.{place}", "rb", buffering=0) as file:
        return ip_address(file.read().decode().strip())
    return None


def _claim(pool: Path, ip: IPAddress, key: Key) -> None:
    """The address's file; one that appeared just now is overwritten by nobody, since each claims by creating."""
    write_file(f"{pool}/{ip}", f"{key.container_id}\r\n{key.ifname}", os.O_EXCL)


def delete(request: Request, node: Node) -> None:
    """Give the addresses back, also those that the reference had given."""
    node.release_of(request.key, request.plugin)
    for ip, holder in _foreign(request, node):
        if holder in ((request.call.container_id, request.call.ifname), (request.call.container_id, "")):
            (_pool(request) / str(ip)).unlink(missing_ok=True)


def check(request: Request, node: Node) -> None:
    """Raise CniError unless the attachment has an address."""
    parse(request)
    holder = (request.call.container_id, request.call.ifname)
    if node.ledger.record(request.key, request.plugin) is None and holder not in dict(_foreign(request, node)).values():
        raise CniError(Code.FAILED, f"no address is allocated to {request.key}")


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Free what no valid attachment holds, the reference's claims too."""
    node.release_invalid(request, valid)
    holders = {(key.container_id, name) for key in valid for name in (key.ifname, "")}
    for ip, holder in _foreign(request, node):
        if holder not in holders:
            log.info("address freed", network=request.network, ip=ip, container=holder[0])
            (_pool(request) / str(ip)).unlink(missing_ok=True)


def status(request: Request, node: Node) -> None:
    """The configuration makes sense. A pool that is empty now is no reason to call the node unfit: pods end."""
    parse(request)


def _pool(request: Request) -> Path:
    ipam: Section = request.config.part("ipam")
    return Path(ipam.text("dataDir", DATA_DIR)) / request.network


def _foreign(request: Request, node: Node) -> Iterator[tuple[IPAddress, tuple[str, str]]]:
    """Addresses that have a file but are not in the ledger, with container and interface."""
    pool = _pool(request)
    for name in file_names(pool):
        with suppress(ValueError, OSError):
            ip = ip_address(name)
            if ip not in node.ledger.taken(str(pool)):
                container_id, _, ifname = (pool / name).read_text().strip().partition("\n")
                yield ip, (container_id.strip(), ifname.strip())
