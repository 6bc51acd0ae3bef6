"""A container's /etc/hosts and /etc/resolv.conf, as texts; must not know where they are put.

Source: hosts(5), resolv.conf(5); which servers a container gets is Docker's rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED = Path("/run/systemd/resolve/resolv.conf")
"""Where systemd-resolved says which servers it asks itself."""
STUB = "127.0.0.53"
"""Where it listens, on the host alone."""
HOSTS = Path("/etc/hosts")
FALLBACK = ("8.8.8.8", "8.8.4.4")
"""For a host that says nothing that a container could use: Docker's choice."""
LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
HOST_GATEWAY = "host-gateway"
DNS_ADDRESS = "127.0.0.11"
"""Where containers ask the engine, each in its own namespace."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """What resolv.conf says."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        lines = [f"nameserver {server}" for server in self.servers]
        lines += [f"search {' '.join(self.search)}"] if self.search else []
        lines += [f"options {' '.join(self.options)}"] if self.options else []
        return "".join(f"{line}\n" for line in lines)


def parse_resolver(text: str) -> Resolver:
    """The last search counts; what is not understood is passed over."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        match line.split("#")[0].split(";")[0].split():
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search" | "domain", *values]:
                search = values
            case ["options", *values]:
                options += values
    return Resolver(tuple(servers), tuple(search), tuple(options))


def host_resolver(path: Path = RESOLV_CONF, resolved: Path = RESOLVED) -> Resolver:
    """What the host asks; of systemd-resolved's stub, whom that asks. Nothing when there is no such file."""
    told = Resolver()
    with suppress(OSError):
        told = parse_resolver(path.read_text(errors="replace"))
    if told.servers == (STUB,):
        with suppress(OSError):
            told = parse_resolver(resolved.read_text(errors="replace"))
    return told


def container_resolver(host: Resolver, servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> Resolver:
    """For a container that asks servers itself: those given, else the host's that it can reach, else the fallback."""
    usable = tuple(servers) or tuple(server for server in host.servers if not _is_local(server)) or FALLBACK
    return Resolver(usable, _search(search, host.search), tuple(options) or host.options)


def host_mode_resolver(host: Resolver, servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> Resolver:
    """For a container in the host's own namespace, which reaches whom the host reaches."""
    return Resolver(tuple(servers) or host.servers, _search(search, host.search), tuple(options) or host.options)


def host_text(path: Path) -> str:
    """A file of the host's as it is; empty when there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def named_resolver(host: Resolver, search: Sequence[str], options: Sequence[str]) -> Resolver:
    """For a container that asks the engine, which knows names without a dot."""
    chosen = tuple(options) or host.options
    more = () if any(option.startswith("ndots:") for option in options) else ("ndots:0",)
    kept = tuple(option for option in chosen if not more or not option.startswith("ndots:"))
    return Resolver((DNS_ADDRESS,), _search(search, host.search), (*kept, *more))


def upstream_servers(host: Resolver, servers: Sequence[str]) -> tuple[str, ...]:
    """Whom the engine asks for such a container; from the host, so that the host's own server will do."""
    return tuple(servers) or host.servers or FALLBACK


def _search(asked: Sequence[str], host: tuple[str, ...]) -> tuple[str, ...]:
    """ "." alone: none."""
    return host if not asked else tuple(domain for domain in asked if domain != ".")


def _is_local(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True


def render_hosts(own: Iterable[tuple[str, Collection[str]]], extra: Iterable[tuple[str, str]], base: str = LOCALHOST) -> str:
    """`own`: addresses of the container's and of others', with their names; `extra`: names with addresses, as asked for."""
    lines = [f"{address}\t{name}\n" for name, address in extra]
    lines += [f"{address}\t{' '.join(names)}\n" for address, names in own]
    return base + "".join(lines)


def own_words(hostname: str, domain: str) -> tuple[str, ...]:
    """What a host's line says of a container: its whole name first."""
    if domain:
        return f"{hostname}.{domain}", hostname
    short, dot, _ = hostname.partition(".")
    return (hostname, short) if dot else (hostname,)


def extra_hosts(asked: Iterable[str], gateway: Sequence[str]) -> list[tuple[str, str]]:
    """ "name:address" as pairs; `host-gateway` is the host as seen from its default bridge, once for each of its addresses."""
    pairs = []
    for text in asked:
        name, _, address = text.partition(":")
        if address == HOST_GATEWAY:
            pairs += [(name, each) for each in gateway]
        else:
            pairs.append((name, address.strip("[]")))
    return pairs
