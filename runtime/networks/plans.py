"""How a container is to be attached, decided before anything is made: values from values; must not know how any of it is done."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from runtime.config import EndpointSettings
from runtime.containers.record import Record
from runtime.networks.addresses import requested_addresses
from runtime.networks.attach import capabilities, kubernetes_args
from runtime.networks.bridge import conflist_of
from runtime.networks.network import BRIDGE, DEFAULT, as_asked
from runtime.networks.registry import Found
from runtime.networks.sandbox import Attached, Sandbox


def plan(found: Found, asked: EndpointSettings, ifname: str, record: Record) -> Attached:
    """One attachment, as yet without any address."""
    network = found.network
    settings = msgspec.structs.replace(as_asked(asked), network_id=network.id, endpoint_id=secrets.token_hex(32))
    conflist = found.conflist or conflist_of(network, requested_addresses(settings))
    return Attached(
        network_id=network.id,
        network=network.name,
        driver=network.driver,
        ifname=ifname,
        config=conflist.raw.decode(),
        has_names=network.has_names,
        internal=network.internal,
        settings=settings,
        capabilities=capabilities(settings, {}),
        args=kubernetes_args(record.config.labels) if network.driver == "cni" else {},
    )


def plans(found: Sequence[tuple[Found, EndpointSettings]], record: Record) -> tuple[Attached, ...]:
    """All attachments of a container that starts; the one that it was made for is eth0."""
    mode = record.host.network_mode
    first = BRIDGE if mode == DEFAULT else mode
    ordered = sorted(found, key=lambda each: (first not in (each[0].network.name, each[0].network.id), each[0].network.name))
    return tuple(plan(network, asked, f"eth{place}", record) for place, (network, asked) in enumerate(ordered))


def with_attached(sandbox: Sandbox, attached: Attached) -> Sandbox:
    """With this attachment in the place of the one of its interface."""
    everyone = tuple(attached if each.ifname == attached.ifname else each for each in sandbox.attached)
    return msgspec.structs.replace(sandbox, attached=everyone)


def without(sandbox: Sandbox, gone: Attached) -> Sandbox:
    """Without this attachment."""
    rest = tuple(each for each in sandbox.attached if each.ifname != gone.ifname)
    published_by = "" if gone.ifname == sandbox.published_by else sandbox.published_by
    return msgspec.structs.replace(sandbox, attached=rest, published_by=published_by)


def publisher(attached: Sequence[Attached]) -> Attached | None:
    """To whose address published ports lead: by which everything else leaves, see `sandbox.gateway_of`."""
    able = [each for each in attached if not each.internal]
    return min(able, key=lambda each: (-each.settings.gw_priority, each.network), default=None)


def free_ifname(sandbox: Sandbox) -> str:
    """What a further interface is called."""
    taken = {attached.ifname for attached in sandbox.attached}
    return next(name for number in range(len(taken) + 1) if (name := f"eth{number}") not in taken)


def upstream(sandbox: Sandbox) -> tuple[str, ...]:
    """Who is asked for others' names: nobody, for one that cannot reach others."""
    return sandbox.upstream if any(not attached.internal for attached in sandbox.attached) else ()
