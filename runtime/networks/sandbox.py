"""A container's network namespace and what it is plumbed with, written down so that another engine can take it away.

    netns/ID         the namespace, kept by a bind mount
    netns/ID.json    the Sandbox: written before each attachment is made

Both are of the present boot, as the namespace is. Must not know networks or plugins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import msgspec

from flanneld.linux import netns
from flanneld.linux.links import present_link, set_link
from flanneld.linux.message import NLM_F_CREATE, NLM_F_REPLACE, Message
from flanneld.linux.netlink import Netlink
from flanneld.linux.netns import Clone, Mount, mount
from flanneld.linux.pod import DEFAULT_DESTINATION, LOOPBACK_INDEX, PodRoute, new_route
from flanneld.log import Log
from runtime.config import EndpointSettings
from runtime.networks.network import Published

log = Log(__name__)

ID = re.compile(r"[0-9a-f]{64}")


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """One interface of a container in one network."""

    network_id: str
    network: str
    """Its name."""
    driver: str
    ifname: str
    config: str
    """The conflist that it was made by: what unmakes it, whatever became of the network since."""
    has_names: bool = False
    """Containers find each other by name in it."""
    internal: bool = False
    settings: EndpointSettings = EndpointSettings()
    """Asked for, and once it is made, given."""
    capabilities: dict[str, object] = msgspec.field(default_factory=dict)
    args: dict[str, str] = msgspec.field(default_factory=dict)


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A container, as far as networks are concerned."""

    id: str
    name: str
    netns: str
    """Path; "host": the host's own."""
    attached: tuple[Attached, ...] = ()
    ports: Published = msgspec.field(default_factory=dict)
    published_by: str = ""
    """Interface to whose address the ports lead."""
    links: tuple[str, ...] = ()
    """"container:alias"."""
    hostname: str = ""
    upstream: tuple[str, ...] = ()
    """Servers that are asked for names that are nobody's here."""

    @property
    def short_id(self) -> str:
        return self.id[:12]

    def in_network(self, network_id: str) -> Attached | None:
        """Its attachment there."""
        return next((each for each in self.attached if each.network_id == network_id), None)


def gateway_of(attached: tuple[Attached, ...], family: int) -> Attached | None:
    """By which of them everything else leaves: the highest priority, of equals the first in the alphabet, as Docker's."""
    able = [each for each in attached if _gateway(each, family)]
    return min(able, key=lambda each: (-each.settings.gw_priority, each.network), default=None)


def _gateway(attached: Attached, family: int) -> str:
    return attached.settings.gateway if family == 4 else attached.settings.ipv6_gateway


def set_default_routes(inside: Netlink, attached: tuple[Attached, ...]) -> None:
    """Have everything else leave by the gateway of the first choice, for each family; `inside` is a socket of the namespace. Raises
    FlanneldError.
    """
    chosen = [(each, family) for family in (4, 6) if (each := gateway_of(attached, family)) is not None]
    if not chosen or (len(attached) == 1 and attached[0].driver == "cni"):  # the plugin has made what it wants
        return
    for each, family in chosen:
        route = PodRoute(DEFAULT_DESTINATION[family], ip_address(_gateway(each, family)))
        made = new_route(present_link(inside, each.ifname).index, route)
        inside.change(f"{route} by {each.ifname}", Message(made.kind, made.body, NLM_F_CREATE | NLM_F_REPLACE))


class Sandboxes:
    """The directory of them. What blocks says so."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, container_id: str) -> Path:
        """Where its namespace is, or would be."""
        return self._directory / container_id

    def make(self, container_id: str) -> Netlink:
        """A namespace with loopback alone, in the place of one that was left; returns a socket in there, which the caller closes.
        Raises OSError, FlanneldError. Blocks.
        """
        path = self.path(container_id)
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        netns.delete(path)
        path.touch(mode=0o444, exist_ok=False)
        try:
            return netns.in_thread(_keep_new, path)
        except BaseException:
            netns.delete(path)
            raise

    def write(self, sandbox: Sandbox) -> None:
        """Remember this; raises OSError. Not synced: it does not outlive the machine's running anyway. Blocks, shortly."""
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        file = self._file(sandbox.id)
        draft = file.with_suffix(".draft")
        draft.write_bytes(msgspec.json.encode(sandbox))
        draft.replace(file)

    def remove(self, container_id: str) -> None:
        """Let go of the namespace, and forget; nothing happens when there is none. Blocks."""
        with suppress(FileNotFoundError):
            netns.delete(self.path(container_id))
        self._file(container_id).unlink(missing_ok=True)

    def read_all(self) -> Iterator[Sandbox]:
        """Those that were written; one that cannot be read is logged and left. Blocks."""
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._directory)):
                if not name.endswith(".json") or not ID.fullmatch(name.removesuffix(".json")):
                    continue
                try:
                    yield msgspec.json.decode((self._directory / name).read_bytes(), type=Sandbox)
                except (OSError, msgspec.DecodeError) as error:
                    log.warning("sandbox not read", file=self._directory / name, why=error)

    def _file(self, container_id: str) -> Path:
        return self._directory / f"{container_id}.json"


def _keep_new(path: Path) -> Netlink:
    """All that has to be done in there, by the one thread that makes it: a thread costs as much as a link."""
    netns.unshare(Clone.NEWNET)
    mount("/proc/thread-self/ns/net", path, flags=Mount.BIND)
    inside = Netlink()
    try:
        set_link(inside, LOOPBACK_INDEX, up=True)
    except BaseException:
        inside.close()
        raise
    return inside
