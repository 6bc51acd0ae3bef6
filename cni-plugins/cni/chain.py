"""The runtime's side of CNI: one network's plugins called in order, what libcni is to Go programs; must not know any plugin.

    chain = Chain(find_conflist(name="cbr0"))
    result = chain.add(Attachment("c1", "/run/netns/c1"))     # JSON; a value: decode_result(result, chain.network.version)
    chain.delete(Attachment("c1", "/run/netns/c1"))

Calls block, and plugins run in the namespaces of the thread that calls: `asyncio.to_thread` in a daemon, `Place.call` in a lab.
Calls for different containers may run at the same time; `gc` may not run beside any other call of its network (spec section 2).

Source: CNI spec 1.1.0 section 3; where libcni does more or otherwise, as libcni, for that is what plugins have met.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cni.cache import Attachment, Cached, CacheError, ResultCache
from cni.conflist import Conflist, PluginConf
from cni.invoke import Executables, PluginError
from cni.ledger import Key
from cni.result import Json, decode_result, encode_result
from cni.spec import SINCE, CniError, Code, Command, at_least, check_version
from flanneld.log import Log

log = Log(__name__)

PREV_RESULT_AT_DEL = "0.4.0"
NO_ATTACHMENT: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Chain:
    """A network on this host. Every method raises CniError (a PluginError if a plugin is at fault) and CacheError."""

    network: Conflist
    executables: Executables = field(default_factory=Executables)
    cache: ResultCache = field(default_factory=ResultCache)

    def add(self, attachment: Attachment) -> dict[str, Any]:
        """Attach; returns the last plugin's result, in the network's version.

        When it fails, what was begun is deleted again, unless the attachment is known from before: then it is another ADD's work.
        """
        attachment.check()
        if not attachment.netns:
            raise CniError(Code.ENVIRONMENT, "CNI_NETNS: got '', expected the path of a network namespace")
        key = attachment.key(self.network.name)
        is_new = self.cache.read(key) is None
        begun: list[PluginConf] = []
        result: dict[str, Any] = {}
        try:
            for plugin in self.network.plugins:
                begun.append(plugin)
                result = self._add(plugin, attachment, result)
            self.cache.write(Cached(self.network.name, attachment, self.network.raw, result))
        except BaseException:
            if is_new:
                self._undo(begun, attachment, result)
            raise
        return result

    def delete(self, attachment: Attachment) -> None:
        """Detach; may be repeated. Stops at the first error, and then knows what it needs for another attempt."""
        attachment.check()
        result = self._remembered(attachment)
        for plugin in reversed(self.network.plugins):
            self._delete(plugin, attachment, result)
        self.cache.drop(attachment.key(self.network.name))

    def check(self, attachment: Attachment) -> None:
        """Raise what the first plugin says that finds something not as ADD made it; CniError (3) when no ADD is known."""
        check_version(self.network.version, Command.CHECK)
        attachment.check()
        if self.network.disable_check:
            return
        result = self._remembered(attachment)
        if not result:
            key = attachment.key(self.network.name)
            raise CniError(Code.UNKNOWN_CONTAINER, f"no result of {key} in {self.cache.directory}", "expected that of its ADD")
        for plugin in self.network.plugins:
            request = make_request(self.network, plugin, attachment, result)
            self.executables.call(plugin.type, Command.CHECK, request, attachment.variables())

    def gc(self, valid: Collection[Key]) -> list[Key]:
        """Detach all that are known and not in `valid`, then have the plugins (since 1.1.0) do so with what they know.

        Goes on after an error. Returns what was detached. Does nothing where the network has disableGC: others attach to it too.
        """
        if self.network.disable_gc:
            return []
        gone, errors = [], []
        for cached in self.cache.attachments(self.network.name):
            if cached.key not in valid:
                try:
                    self.delete(cached.attachment)
                    gone.append(cached.key)
                except (CniError, CacheError) as error:
                    errors.append(error)
        if at_least(self.network.version, SINCE[Command.GC]):
            errors += self._collect([key for key in valid if key.network == self.network.name])
        if errors:
            first = errors[0]
            raise first if len(errors) == 1 else CniError(getattr(first, "code", Code.IO), "; ".join(map(str, errors)))
        return gone

    def status(self) -> None:
        """Raise what the first plugin says that is not ready for an ADD (50, 51); before 1.1.0 nobody can be asked."""
        if at_least(self.network.version, SINCE[Command.STATUS]):
            for plugin in self.network.plugins:
                self.executables.call(plugin.type, Command.STATUS, make_request(self.network, plugin), NO_ATTACHMENT)

    def versions(self) -> dict[str, tuple[str, ...]]:
        """Plugin -> the versions that it speaks."""
        return {kind: self.executables.versions(kind) for kind in dict.fromkeys(plugin.type for plugin in self.network.plugins)}

    def validate(self) -> frozenset[str]:
        """Raise unless every plugin is there and speaks the network's version; returns the capabilities that any of them wants."""
        for plugin, spoken in self.versions().items():
            if self.network.version not in spoken:
                details = f"network {self.network.name} is {self.network.version!r}, expected one of {', '.join(spoken)}"
                raise PluginError(plugin, Command.VERSION, CniError(Code.VERSION, "incompatible CNI versions", details))
        return frozenset().union(*(plugin.capabilities for plugin in self.network.plugins))

    def _add(self, plugin: PluginConf, attachment: Attachment, previous: Json) -> dict[str, Any]:
        request = make_request(self.network, plugin, attachment, previous)
        told = self.executables.ask(plugin.type, Command.ADD, request, attachment.variables())
        try:
            return in_version(told, self.network.version)
        except CniError as error:
            why = CniError(error.code, "its result cannot be decoded", error.details)
            raise PluginError(plugin.type, Command.ADD, why) from error

    def _delete(self, plugin: PluginConf, attachment: Attachment, result: Json) -> None:
        known = result if at_least(self.network.version, PREV_RESULT_AT_DEL) else {}
        request = make_request(self.network, plugin, attachment, known)
        self.executables.call(plugin.type, Command.DEL, request, attachment.variables())

    def _undo(self, begun: Sequence[PluginConf], attachment: Attachment, result: Json) -> None:
        """Delete after an ADD that failed, as far as that works: the error to be told is that of the ADD."""
        for plugin in reversed(begun):
            try:
                self._delete(plugin, attachment, result)
            except CniError as error:
                log.warning("not cleaned up after a failed ADD", attachment=attachment.key(self.network.name), why=error)

    def _collect(self, valid: Collection[Key]) -> list[CniError]:
        attachments = [{"containerID": key.container_id, "ifname": key.ifname} for key in valid]
        # The first name is the spec's, the second what plugins were built to read (libcni sends both).
        more = {"cni.dev/valid-attachments": attachments, "cni.dev/attachments": attachments}
        errors = []
        for plugin in self.network.plugins:
            try:
                self.executables.call(plugin.type, Command.GC, make_request(self.network, plugin) | more, NO_ATTACHMENT)
            except CniError as error:
                errors.append(error)
        return errors

    def _remembered(self, attachment: Attachment) -> dict[str, Any]:
        """The ADD's result in the present version of the network, which somebody may have edited since; empty if unknown."""
        cached = self.cache.read(attachment.key(self.network.name))
        try:
            return in_version(cached.result, self.network.version) if cached and cached.result else {}
        except CniError:
            return {}


def make_request(
    network: Conflist, plugin: PluginConf, attachment: Attachment | None = None, previous: Json | None = None
) -> dict[str, Any]:
    """What a plugin is told on its standard input (spec section 3)."""
    # `capabilities` stays in, against the spec and as in libcni: plugins that call others read it.
    request = {**plugin.values, "name": network.name, "cniVersion": network.version}
    supplied = attachment.capabilities if attachment else {}
    if wanted := {name: value for name, value in supplied.items() if name in plugin.capabilities}:
        request["runtimeConfig"] = wanted
    if previous:
        request["prevResult"] = previous
    return request


def in_version(result: Json, version: str) -> dict[str, Any]:
    """A result in that version's shape, otherwise untouched; raises CniError (6) when it is none."""
    value = decode_result(result, version)
    said = result.get("cniVersion") or version
    return {**result, "cniVersion": version} if said == version else encode_result(value, version)
