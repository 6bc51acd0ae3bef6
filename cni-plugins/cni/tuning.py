"""tuning: sysctls of the pod's namespace and settings of its interface, changed after another plugin has made it.

Keys are the reference's. As there, DEL gives the interface its former settings back, out of dataDir/CONTAINER_IFNAME.json, and
leaves the sysctls, which end with the namespace. What this one does otherwise: an ADD that fails has changed nothing, a second
tuning in the chain keeps what the first one saved, and CHECK knows IFNAME.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cni.config import Section
from cni.files import remove_file
from cni.interface import checked_mac, requested_mac
from cni.ledger import HeldFile, Key, State
from cni.node import Node
from cni.plugin import Request
from cni.result import Result
from cni.spec import CniError, Code
from cni.sysctls import Sysctl, change_sysctl, check_allowed, parse_sysctls, read_sysctl
from cni.veth import require_pod
from flanneld.kernel import KernelError
from flanneld.linux.link_settings import LinkSettings, change_settings, link_settings
from flanneld.linux.links import present_link
from flanneld.linux.netlink import Netlink

DATA_DIR = "/run/cni/tuning"
KEYS = ("mac", "promisc", "mtu", "allmulti", "txQLen", "sysctl")
SAVED_KEYS = {"mac": "mac", "promisc": "promisc", "mtu": "mtu", "allmulti": "allmulti", "tx_queue": "txQLen"}
"""Of a setting, in the reference's files, so that either can follow on the other."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The configuration, checked."""

    sysctls: tuple[Sysctl, ...]
    settings: LinkSettings
    file: Path
    """Where the former settings are."""


def parse(request: Request) -> Tuning:
    """Raises CniError (2, 7). `args.cni` may have any of the keys, before the configuration; its MAC comes before all others."""
    request.config.ignore(*KEYS)
    args = request.config.part("args").part("cni")
    told = Section({key: value for source in (request.config, args) for key in KEYS if (value := source.get(key)) is not None})
    settings = LinkSettings(
        mac=checked_mac(mac) if (mac := args.text("mac")) else requested_mac(request),
        mtu=told.number("mtu", 0, 65535) or None,
        promisc=told.flag("promisc") or None,
        allmulti=told.flag("allmulti") if told.get("allmulti") is not None else None,
        tx_queue=told.number("txQLen"),
    )
    config = Tuning(parse_sysctls(told.part("sysctl"), request.call.ifname), settings, _file(request))
    request.finish_config()
    return config


def _file(request: Request) -> Path:
    return Path(request.config.text("dataDir", DATA_DIR), f"{request.call.container_id}_{request.call.ifname}.json")


def add(request: Request, node: Node) -> Result:
    """Change what is there; the result has the interface's new MAC and MTU."""
    config = parse(request)
    result = request.require_prev_result()
    check_allowed(config.sysctls)
    netns = require_pod(request, node)
    with _saving(request, node, config, netns), node.inside(netns) as inside, ExitStack() as undo:
        for sysctl in config.sysctls:
            undo.callback(change_sysctl, change_sysctl(sysctl))
        if config.settings != LinkSettings():
            _change_link(inside, request.call.ifname, config, undo)
        undo.pop_all()
    return _with_settings(result, request.call.ifname, config.settings)


@contextmanager
def _saving(request: Request, node: Node, config: Tuning, netns: int) -> Iterator[None]:
    """For as long as settings change: the file of former settings is written down first, and is as it was if the block fails."""
    if config.settings == LinkSettings():
        yield
        return
    held = node.ledger.record(request.key, request.plugin)
    if held is not None and held.state is State.MADE and node.is_same(held, netns):
        saved = config.file.read_text() if config.file.exists() else ""
        try:
            yield
        except BaseException:
            config.file.write_text(saved)
            raise
        return
    remove_file(config.file)  # of another life of the container
    with node.holding(request, HeldFile(str(config.file))):
        yield


def _change_link(inside: Netlink, name: str, config: Tuning, undo: ExitStack) -> None:
    """Save the settings that will change, then change them. Raises CniError, KernelError, OSError."""
    index = present_link(inside, name).index
    present = link_settings(inside, name) or LinkSettings()
    former = present.where_wanted(config.settings)
    config.file.parent.mkdir(parents=True, exist_ok=True)
    # What an earlier plugin of the chain has saved was so before this one came.
    config.file.write_text(json.dumps(_encode(former) | _saved(config.file)))
    undo.callback(_restore, inside, index, _encode(former))
    change_settings(inside, index, config.settings)


def _saved(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        told = json.loads(file.read_text())
        return told if isinstance(told, dict) else {}
    return {}


def _restore(inside: Netlink, index: int, saved: Mapping[str, Any]) -> None:
    """One by one, since one that the kernel takes back no more is no reason to leave the others."""
    for name, key in SAVED_KEYS.items():
        if saved.get(key) is not None:
            with suppress(KernelError, ValueError, TypeError, AttributeError, OverflowError):  # somebody may have edited the file
                change_settings(inside, index, LinkSettings(**{name: saved[key]}))


def _encode(settings: LinkSettings) -> dict[str, Any]:
    return {key: value for name, key in SAVED_KEYS.items() if (value := getattr(settings, name)) is not None}


def _with_settings(result: Result, name: str, settings: LinkSettings) -> Result:
    """The chain's result, in which the pod's interface has what was set; of an MTU, if it had said one."""
    interfaces = tuple(
        replace(each, mac=settings.mac or each.mac, mtu=each.mtu and (settings.mtu or each.mtu))
        if each.sandbox and each.name == name
        else each
        for each in result.interfaces
    )
    return replace(result, interfaces=interfaces)


def delete(request: Request, node: Node) -> None:
    """Give the interface back what it had, if both are still there."""
    file = _saved_in(request, node)
    saved = _saved(file) if file is not None else {}
    if saved:
        with suppress(CniError, KernelError), node.inside(require_pod(request, node)) as inside:
            _restore(inside, present_link(inside, request.call.ifname).index, saved)
    if file is not None:
        remove_file(file)
    node.release_of(request.key, request.plugin)


def _saved_in(request: Request, node: Node) -> Path | None:
    """The file, as we remember it, or where the reference would have put it."""
    record = node.ledger.record(request.key, request.plugin)
    with suppress(CniError):
        return Path(record.of(HeldFile)[0].path) if record is not None and record.of(HeldFile) else _file(request)
    return None


def check(request: Request, node: Node) -> None:
    """Raise CniError unless sysctls and settings are as configured."""
    config = parse(request)
    request.require_prev_result()
    name = request.call.ifname
    with node.inside(require_pod(request, node)) as inside:
        for sysctl in config.sysctls:
            if (now := read_sysctl(sysctl)).split() != sysctl.value.split():
                raise CniError(Code.FAILED, f"configured sysctl {sysctl.name} is {sysctl.value}, current value is {now}")
        present = link_settings(inside, name)
    if present is None:
        raise CniError(Code.FAILED, f"interface {name} is gone from {request.call.netns}")
    found, wanted = _encode(present.where_wanted(config.settings)), _encode(config.settings)
    for key, value in wanted.items():
        if found[key] != value:
            raise CniError(Code.FAILED, f"configured {key} of {name} is {value}, current value is {found[key]}")


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Remove what was saved for attachments that are no more."""
    node.release_invalid(request, valid)


def status(request: Request, node: Node) -> None:
    """The configuration makes sense."""
    check_allowed(parse(request).sysctls)
