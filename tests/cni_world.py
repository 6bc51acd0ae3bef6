"""CNI plugins as a runtime sees them: executables in a directory, called on a host of their own; must not know whose they are.

A host is a network and a mount namespace that this process holds by descriptors, so that nothing is left when they are closed,
however the test ends. Inside, /run and /var/lib are empty and private: plugins find no state of the machine, and leave none.
CNI spec 1.1.0: sections 2 (environment, streams), 3 (chains), 5 (results).
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from flanneld.kernel import KernelError
from flanneld.linux import netns
from flanneld.linux.links import new_link, set_link
from flanneld.linux.netlink import Netlink
from flanneld.linux.netns import Clone, Mount, in_thread, mount, unshare
from lab.place import Place

Json: TypeAlias = dict[str, Any]

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
PRIVATE = ("/run", "/var/lib")
"""A tmpfs of the host's own in place of the machine's; not /tmp, which plugins do not use, and where those of a test may be."""
NETNS = Path("/run/netns")
LOOPBACK = 1
SOON_S = 2.0
CALL_TIMEOUT_S = 30.0
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "TARTAN_TEST_SESSION") if name in os.environ}
"""Of all that runs there: the second tells conftest.py whose processes they are."""


def is_before(version: str, other: str) -> bool:
    return VERSIONS.index(version) < VERSIONS.index(other)


@dataclass(frozen=True)
class PluginSet:
    """Executables to be tested, all in one directory."""

    name: str
    """MAKER, or MAKER-VARIANT."""
    directory: Path
    versions: tuple[str, ...] = VERSIONS
    """Versions of the spec that they speak."""
    spec_codes: bool = True
    """False: most errors carry 999, whatever they are."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the runtime of this set has in its environment besides PATH."""

    @property
    def maker(self) -> str:
        """Whose they are: `reference`, `ours`."""
        return self.name.partition("-")[0]

    def prepare(self, host: CniHost) -> AbstractContextManager[None]:  # subclasses need it
        """Start on a new host what these plugins need, for as long as the host lasts."""
        return nullcontext()

    def absent(self) -> str:
        """Why these cannot be tested on this machine; empty when they can."""
        return "" if (self.directory / "bridge").exists() else f"no CNI plugins in {self.directory}"


REFERENCE_DIRECTORY = Path(sys.prefix) / "lib/cni"
"""Where `./dev test` puts Debian's plugins, which it takes out of the package without installing it."""
REFERENCE = PluginSet("reference", REFERENCE_DIRECTORY, versions=VERSIONS[:-1], spec_codes=False)
"""Debian 12's containernetworking-plugins 1.1.1, Go, of spec 1.0.0."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> Json:
        """What a plugin that succeeded printed."""
        assert self.exit_code == 0, self
        printed = json.loads(self.stdout)
        assert isinstance(printed, dict), self
        return printed

    @property
    def error(self) -> Json:
        """What a plugin that failed printed, on stdout: at least `code` and `msg` (CNI spec 5.4)."""
        assert self.exit_code != 0, self
        printed = json.loads(self.stdout)
        assert isinstance(printed["code"], int), self
        assert isinstance(printed["msg"], str), self
        return printed  # type: ignore[no-any-return]

    @property
    def text(self) -> str:
        """All of the error's words."""
        error = self.error
        return f"{error['msg']}; {error.get('details', '')}"

    def succeeded(self) -> Outcome:
        """Assert that it did and had nothing to say, as DEL, CHECK, STATUS and GC should."""
        assert (self.exit_code, self.stdout.strip()) == (0, ""), self
        return self


@dataclass(frozen=True)
class Sandbox:
    """A container's network namespace on a host."""

    place: Place
    path: Path
    """As the plugins see it."""

    def ip(self, line: str) -> None:
        """Change something with iproute2; several lines are one batch."""
        self.place.run(["ip", "-batch", "-"], stdin=line)

    def read(self, line: str) -> list[Json]:
        """What `ip`, `bridge` or `tc` says: our second opinion."""
        program, *arguments = line.split()
        return [row for row in json.loads(self.place.run([program, "-j", "-d", *arguments]).stdout or "[]") if row]

    def links(self) -> dict[str, Json]:
        return {link["ifname"]: link for link in self.read("ip link show")}

    def is_left_with(self, *names: str) -> bool:
        """True if these are all links that there are, or soon will be: DEL may be answered before the kernel has done it."""
        deadline = time.monotonic() + SOON_S
        while set(self.links()) != set(names):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def addresses(self, device: str) -> set[str]:
        """Without link-local ones."""
        (link,) = self.read(f"ip address show dev {device}")
        return {f"{ip['local']}/{ip['prefixlen']}" for ip in link["addr_info"] if ip["scope"] != "link"}

    def routes(self, family: int = 4) -> dict[str, Json]:
        """By destination; without multicast, and link-local ones."""
        rows = self.read(f"ip -{family} route show")
        return {row["dst"]: row for row in rows if not row["dst"].startswith(("ff00::", "fe80::"))}

    def sysctl(self, key: str) -> str:
        return self.place.call(Path("/proc/sys", *key.split("/")).read_text).strip()


@dataclass(frozen=True)
class Attachment:
    """One container, one interface: what CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME and CNI_ARGS say."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: str = ""

    def environment(self) -> dict[str, str]:
        names = {"CNI_CONTAINERID": self.container_id, "CNI_NETNS": self.netns, "CNI_IFNAME": self.ifname, "CNI_ARGS": self.args}
        return {name: value for name, value in names.items() if value or name == "CNI_NETNS"}


@dataclass(frozen=True)
class CniHost(Sandbox):
    """A machine of its own, with plugins on it; `path` is its own network namespace."""

    plugins: PluginSet

    def execute(self, plugin: str, stdin: str, variables: Mapping[str, str]) -> Outcome:
        """Run an executable with that environment, exactly."""
        environment = {**self.place.environment, **self.plugins.environment, **variables}
        there = Place(self.place.name, self.place.namespaces, environment)
        ended = there.run([str(self.plugins.directory / plugin)], stdin=stdin, check=False, timeout_s=CALL_TIMEOUT_S)
        return Outcome(ended.returncode, ended.stdout, ended.stderr)

    def call(
        self, plugin: str, command: str, conf: Json | str, attachment: Attachment | None = None, **variables: str | None
    ) -> Outcome:
        """Call a plugin as libcni does; `variables` replace (None: remove) what the environment would be."""
        about = attachment.environment() if attachment else {}
        wanted = {"CNI_COMMAND": command, "CNI_PATH": str(self.plugins.directory), **about, **variables}
        stdin = conf if isinstance(conf, str) else json.dumps(conf)
        return self.execute(plugin, stdin, {name: value for name, value in wanted.items() if value is not None})

    def add(self, conf: Json, attachment: Attachment, **variables: str | None) -> Json:
        """ADD by the plugin that `conf` names; the result."""
        return self.call(conf["type"], "ADD", conf, attachment, **variables).result

    def delete(self, conf: Json, attachment: Attachment, **variables: str | None) -> None:
        self.call(conf["type"], "DEL", conf, attachment, **variables).succeeded()

    def check(self, conf: Json, attachment: Attachment, previous: Json, **variables: str | None) -> Outcome:
        """CHECK with the result of ADD."""
        return self.call(conf["type"], "CHECK", {**conf, "prevResult": previous}, attachment, **variables)

    def sandbox(self, name: str = "", *, detects_duplicates: bool = False) -> Sandbox:
        """A new network namespace, kept by a file in this host's /run/netns; by default, Linux would have it detect duplicates."""
        name = name or f"pod-{uuid.uuid4().hex[:8]}"
        self.place.call(netns.create, NETNS / name)
        made = self._sandbox(name)
        if not detects_duplicates:
            made.place.call(_skip_duplicate_detection)
        return made

    def remove(self, sandbox: Sandbox) -> None:
        """Take the namespace away, as a runtime does before a late DEL."""
        self.place.call(netns.delete, sandbox.path)

    def attachment(self, sandbox: Sandbox | None = None, ifname: str = "eth0", args: str = "") -> Attachment:
        """Of a new container, in a new namespace if none is given."""
        return Attachment(f"c-{uuid.uuid4().hex}", str((sandbox or self.sandbox()).path), ifname, args)

    def of(self, attachment: Attachment) -> Sandbox:
        """The namespace that an attachment is about."""
        return self._sandbox(Path(attachment.netns).name)

    def files(self, directory: str) -> dict[str, str]:
        """What is in a directory there, by name; empty when there is no such directory."""
        return self.place.call(_files, Path(directory))

    def put(self, path: str, content: str) -> None:
        """Write a file there, as somebody else's plugin would."""
        self.place.call(_put, Path(path), content)

    def _sandbox(self, name: str) -> Sandbox:
        path = NETNS / name
        return Sandbox(Place(name, (*self.place.namespaces, path), self.place.environment), path)


def _files(directory: Path) -> dict[str, str]:
    if not directory.is_dir():
        return {}
    return {path.name: path.read_bytes().decode() for path in directory.iterdir() if path.is_file()}


def _put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())


@cache
def kernel_has(kind: str) -> bool:
    """True if this machine's kernel can make interfaces of that kind."""
    return os.geteuid() == 0 and in_thread(_can_make, kind)


def _can_make(kind: str) -> bool:
    unshare(Clone.NEWNET)
    with Netlink() as nl:
        try:
            nl.change(f"a {kind}", new_link("probe", kind))
        except KernelError as error:
            return error.errno not in (errno.EOPNOTSUPP, errno.ENODEV)
    return True


@contextmanager
def cni_host(plugins: PluginSet) -> Iterator[CniHost]:
    """A host that lasts as long as this context, ready for calls."""
    descriptors = in_thread(_new_namespaces)
    try:
        namespaces = tuple(Path(f"/proc/self/fd/{descriptor}") for descriptor in descriptors)
        place = Place(f"{plugins.name}-host", namespaces, ENVIRONMENT)
        host = CniHost(place, NETNS / "host", plugins)
        with plugins.prepare(host):
            yield host
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _new_namespaces() -> tuple[int, int]:
    """Runs in a thread of its own: furnish new namespaces, and return descriptors that keep them."""
    unshare(Clone.NEWNET | Clone.NEWNS)
    mount("", "/", flags=Mount.PRIVATE | Mount.REC)
    for path in PRIVATE:
        mount("tmpfs", path, "tmpfs", options="mode=0755")
    _skip_duplicate_detection()
    mount("sysfs", "/sys", "sysfs")  # it shows the interfaces of the namespace that it is mounted in
    NETNS.mkdir()
    (NETNS / "host").touch()
    mount("/proc/thread-self/ns/net", NETNS / "host", flags=Mount.BIND)
    with Netlink() as nl:
        set_link(nl, LOOPBACK, up=True)
    return _open_namespace("net"), _open_namespace("mnt")


def _skip_duplicate_detection() -> None:
    """Else every IPv6 address of a new interface waits two seconds (RFC 4862 §5.4), and whoever waits for it."""
    for which in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0")


def _open_namespace(kind: str) -> int:
    return os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
