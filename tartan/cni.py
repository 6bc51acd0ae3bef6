"""`tartan cni`: attach containers as a runtime does, and see what a node holds for them; words in, `cni.chain` called, text out."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cni import cache, conflist, invoke
from cni.cache import Attachment, Cached, ResultCache
from cni.chain import Chain
from cni.conflist import Conflist, ConflistError, find_conflist, parse_conflist, read_conflist
from cni.invoke import Executables
from cni.ledger import Key
from cni.spec import SINCE, Command, at_least, parse_args
from flanneld import log
from tartan.cni_list import show


@dataclass(frozen=True, slots=True)
class Network:
    """The network that a command is about, and where its parts are."""

    name: str
    """Or its file's path."""
    conf_dir: Path
    executables: Executables
    cache: ResultCache

    def chain(self, cached: Cached | None = None) -> Chain:
        """Its plugins; when its file is gone, as an attachment's ADD met them. Raises ConflistError."""
        try:
            return self._chain(read_conflist(Path(self.name)) if "/" in self.name else find_conflist(self.conf_dir, self.name))
        except ConflistError:
            if cached is None or not cached.config:
                raise
            return self._chain(parse_conflist(cached.config))

    def known(self, attachment: Attachment) -> Cached | None:
        """What is known of the attachment from its ADD; raises ConflistError, CacheError."""
        name = read_conflist(Path(self.name)).name if "/" in self.name else self.name
        return self.cache.read(attachment.key(name))

    def _chain(self, network: Conflist) -> Chain:
        return Chain(network, self.executables, self.cache)


@click.group()
def cni() -> None:
    """Attach containers to networks as a container runtime does, and see what this node holds for them."""
    log.set_up("text")  # for what plugins say without failing


def on_network(command: Callable[..., None]) -> Callable[..., None]:
    """Add what names a network and says where its parts are; the command gets a Network."""

    @click.argument("network")
    @click.option(
        "--conf-dir", envvar="NETCONFPATH", default=conflist.DIRECTORY, type=click.Path(path_type=Path), show_default=True
    )
    @click.option(
        "--bin-dir", envvar="CNI_PATH", default=":".join(invoke.PATH), show_default=True, help="May be several, ':' between."
    )
    @click.option("--cache-dir", default=cache.DIRECTORY, type=click.Path(path_type=Path), show_default=True)
    @functools.wraps(command)
    def run(network: str, conf_dir: Path, bin_dir: str, cache_dir: Path, **rest: Any) -> None:
        path = tuple(part for part in bin_dir.split(":") if part)
        command(Network(network, conf_dir, Executables(path), ResultCache(cache_dir)), **rest)

    return run


def on_attachment(command: Callable[..., None]) -> Callable[..., None]:
    """Add what says which attachment; the command gets an Attachment."""

    @click.argument("netns")
    @click.option("--id", "container_id", help="The container's.  [default: made of the namespace's path, as cnitool does]")
    @click.option("--ifname", envvar="CNI_IFNAME", default="eth0", show_default=True)
    @click.option("--args", envvar="CNI_ARGS", default="", help="K=V;K=V for plugins.")
    @click.option("--cap", "caps", multiple=True, metavar="NAME=JSON", help="What to supply for a capability; may be repeated.")
    @click.option("--cap-args", envvar="CAP_ARGS", default="{}", help="The same for all capabilities, as one JSON object.")
    @functools.wraps(command)
    def run(network: Network, caps: tuple[str, ...], cap_args: str, **words: Any) -> None:
        command(network, _attachment(_capabilities(caps, cap_args), **words))

    return run


def _attachment(capabilities: dict[str, Any], netns: str, container_id: str | None, ifname: str, args: str) -> Attachment:
    path = str(Path(netns).absolute())
    container_id = container_id or f"cnitool-{hashlib.sha512(path.encode()).hexdigest()[:20]}"
    attachment = Attachment(container_id, path, ifname, parse_args(args), capabilities)
    attachment.check()
    return attachment


def _capabilities(caps: tuple[str, ...], cap_args: str) -> dict[str, Any]:
    found = _json("--cap-args", cap_args)
    if not isinstance(found, dict):
        raise click.UsageError(f"--cap-args: got {cap_args}, expected a JSON object")
    for cap in caps:
        name, equals, value = cap.partition("=")
        if not equals:
            raise click.UsageError(f"--cap: got {cap!r}, expected NAME=JSON")
        found[name] = _json(f"--cap {name}", value)
    return found


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{where}: got {text!r}, expected JSON: {error}") from error


def _completed(said: Attachment, cached: Cached | None) -> Attachment:
    """With what was said at ADD, as far as nobody says it now: portmap's DEL needs the ports."""
    if cached is None:
        return said
    then = cached.attachment
    return Attachment(said.container_id, said.netns, said.ifname, said.args or then.args, said.capabilities or then.capabilities)


@cni.command()
@on_network
@on_attachment
def add(network: Network, attachment: Attachment) -> None:
    """Attach the network namespace NETNS to NETWORK, a name or a file's path, and print the result.

    Takes cnitool's variables CNI_PATH, NETCONFPATH, CNI_ARGS, CAP_ARGS and CNI_IFNAME too.
    """
    click.echo(json.dumps(network.chain().add(attachment), indent=4))


@cni.command(name="del")
@on_network
@on_attachment
def delete(network: Network, attachment: Attachment) -> None:
    """Detach NETNS from NETWORK; may be repeated, and the namespace and the network's file may be gone."""
    cached = network.known(attachment)
    network.chain(cached).delete(_completed(attachment, cached))


@cni.command()
@on_network
@on_attachment
def check(network: Network, attachment: Attachment) -> None:
    """See whether NETNS is still attached to NETWORK as `add` did it."""
    network.chain().check(_completed(attachment, network.known(attachment)))


@cni.command()
@on_network
@click.option("--keep", multiple=True, metavar="ID/IFNAME", help="An attachment that is to stay; may be repeated.")
def gc(network: Network, keep: tuple[str, ...]) -> None:
    """Detach from NETWORK all that is not kept, whoever attached it; nothing else may use the network meanwhile."""
    chain = network.chain()
    valid = set()
    for word in keep:
        container_id, slash, ifname = word.partition("/")
        if not slash:
            raise click.UsageError(f"--keep: got {word!r}, expected ID/IFNAME")
        valid.add(Key(chain.network.name, container_id, ifname))
    for key in chain.gc(valid):
        click.echo(f"detached {key.container_id}/{key.ifname}")
    if chain.network.disable_gc:
        click.echo(f"{chain.network.name} has disableGC: nothing done")


@cni.command()
@on_network
def status(network: Network) -> None:
    """Ask the plugins of NETWORK whether they could attach a container now."""
    chain = network.chain()
    chain.status()
    asked = at_least(chain.network.version, first := SINCE[Command.STATUS])
    click.echo("ready" if asked else f"{chain.network.name} is {chain.network.version}: plugins can be asked since {first}")


@cni.command()
@on_network
def version(network: Network) -> None:
    """Show which versions of CNI the plugins of NETWORK speak; exit 1 if one does not speak the network's."""
    chain = network.chain()
    click.echo(f"{chain.network.name}: {chain.network.version}")
    for plugin, spoken in chain.versions().items():
        click.echo(f"  {plugin}: {' '.join(spoken)}")
    chain.validate()


@cni.command()
@click.argument("directory", type=click.Path(path_type=Path))
def install(directory: Path) -> None:
    """Put Tartan's plugins into DIRECTORY, where a container runtime looks for them."""
    from cni.install import install as install_plugins

    for path in install_plugins(directory):
        click.echo(path)


cni.add_command(show)
