"""A real etcd for tests, on free loopback ports and in a directory of its own; it ends with the test, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_TRIES = 5
READY_S = 20.0


def find_program(name: str) -> str:
    """`etcd` or `etcdctl`: beside this interpreter, where `./dev setup` puts them, or on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name}: expected beside {sys.executable} or on PATH")
    return found


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: an authority, and what it signed for a server on loopback and for a client; `stranger` is another authority."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    stranger: Path


def make_certificates(directory: Path) -> Certificates:
    """Let openssl make all of them in `directory`."""
    for authority in ("ca", "stranger"):
        _openssl(
            directory, "req", "-x509", "-days", "2", "-subj", f"/CN={authority}", *_new_key(authority), "-out", f"{authority}.pem"
        )
    for name, use in (("server", "serverAuth"), ("client", "clientAuth")):
        (directory / f"{name}.ext").write_text(f"subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={use}\n")
        _openssl(directory, "req", "-subj", f"/CN={name}", *_new_key(name), "-out", f"{name}.csr")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        _openssl(directory, "x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")
    names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key", "stranger.pem")
    return Certificates(*(directory / name for name in names))


def _new_key(name: str) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@dataclass(slots=True)
class EtcdServer:
    """One etcd, alone or one of a cluster, which can be stopped and started again on the same ports and data."""

    directory: Path
    certificates: Certificates | None = None
    client_certificates: bool = False
    """Ask every client for a certificate."""
    port: int = 0
    peer_port: int = 0
    user: str = ""
    """name:password for `ctl`, once authentication is on."""
    name: str = "t"
    members: Mapping[str, int] = field(default_factory=dict)
    """The peer port of each member of the cluster, by name; empty: it is alone."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificates else 'http'}://127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers; fresh ports are found the first time."""
        if self._process:
            return
        fresh = not self.port
        for _ in range(START_TRIES):
            if fresh:
                self.port, self.peer_port = _free_ports(2)
            self.spawn()
            if self.answers():
                return
            self.kill()
        raise RuntimeError(f"etcd did not start: {(self.directory / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """End it at once, as a crash would; nothing happens when it is not running."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Make it fall silent, as a cut cable would; `kill` ends it even then."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # until then some of its threads may still answer

    def resume(self) -> None:
        """Let it go on after `pause`."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)

    def restore(self, snapshot: Path) -> None:
        """Kill it, throw its data away, and start it with those of `etcdctl snapshot save`: for one that is alone."""
        self.kill()
        shutil.rmtree(self.directory / "data")
        cluster = [f"--name={self.name}", f"--initial-cluster={self.name}={self.peer_url}"]
        cluster += [f"--initial-advertise-peer-urls={self.peer_url}", f"--data-dir={self.directory / 'data'}"]
        self.ctl("snapshot", "restore", str(snapshot), *cluster)
        self.start()

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl and return what it prints."""
        return self._ctl(arguments, timeout_s=30).stdout.decode()

    def spawn(self) -> None:
        """Start it, and do not wait."""
        urls, peer_url = self.endpoint, self.peer_url
        cluster = ",".join(
            f"{name}=http://127.0.0.1:{port}" for name, port in (self.members or {self.name: self.peer_port}).items()
        )
        command = [find_program("etcd"), f"--name={self.name}", f"--data-dir={self.directory / 'data'}"]
        command += [f"--initial-cluster={cluster}", "--unsafe-no-fsync"]
        # Alone, it elects itself as soon as it may; in company, on a busy machine, it must not take a pause for a death.
        command += (
            ["--heartbeat-interval=100", "--election-timeout=1000"]
            if self.members
            else ["--heartbeat-interval=20", "--election-timeout=200"]
        )
        command += [f"--listen-client-urls={urls}", f"--advertise-client-urls={urls}"]
        command += [f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"]
        if self.certificates:
            command += [f"--cert-file={self.certificates.server}", f"--key-file={self.certificates.server_key}"]
        if self.certificates and self.client_certificates:
            command += ["--client-cert-auth", f"--trusted-ca-file={self.certificates.ca}"]
        with (self.directory / "log").open("ab") as log:
            # setpriv: a killed test run takes its etcd with it.
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)

    def answers(self) -> bool:
        """Wait until it serves; False: it does not."""
        deadline = time.monotonic() + READY_S
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
            if not _listens(self.port):
                time.sleep(0.02)
                continue
            try:
                self._ctl(("get", "is-it-up"), timeout_s=2)
            except subprocess.CalledProcessError as error:
                if b"user name is empty" in error.stderr:
                    return True
                time.sleep(0.05)
            except subprocess.TimeoutExpired:
                continue
            else:
                return True
        return False

    def _ctl(self, arguments: tuple[str, ...], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        command = [find_program("etcdctl"), f"--endpoints={self.endpoint}", *arguments]
        if self.certificates:
            tls = self.certificates
            command += [f"--cacert={tls.ca}", f"--cert={tls.client}", f"--key={tls.client_key}"]
        if self.user:
            command.append(f"--user={self.user}")
        return subprocess.run(command, check=True, capture_output=True, timeout=timeout_s, env={"ETCDCTL_API": "3"})


@contextmanager
def etcd_server(
    directory: Path, *, certificates: Certificates | None = None, client_certificates: bool = False
) -> Iterator[EtcdServer]:
    """A running etcd; its data and log are in `directory`, which is the caller's to remove."""
    server = EtcdServer(directory, certificates, client_certificates)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def etcd_cluster(directory: Path, size: int = 3) -> Iterator[list[EtcdServer]]:
    """A running cluster, its members' data and logs each in a directory of its own."""
    ports = _free_ports(2 * size)
    peers = {f"m{number}": ports[size + number] for number in range(size)}
    members = [
        EtcdServer(directory / name, port=ports[number], peer_port=peer, name=name, members=peers)
        for number, (name, peer) in enumerate(peers.items())
    ]
    with ExitStack() as stack:
        for member in members:
            member.directory.mkdir()
            stack.callback(member.kill)
            member.spawn()
        for member in members:
            if not member.answers():
                raise RuntimeError(f"etcd did not start: {(member.directory / 'log').read_text()[-2000:]}")
        yield members


@contextmanager
def grpc_proxy(server: EtcdServer) -> Iterator[str]:
    """The URL of etcd's own proxy before that server: clients keep connections and watches when the server restarts."""
    (port,) = _free_ports(1)
    url = f"127.0.0.1:{port}"
    command = [find_program("etcd"), "grpc-proxy", "start", f"--endpoints={server.endpoint}", f"--listen-addr={url}"]
    with (server.directory / "proxy").open("wb") as log:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)
    try:
        subprocess.run(
            [find_program("etcdctl"), f"--endpoints={url}", "get", "is-it-up"],
            check=True,
            capture_output=True,
            env={"ETCDCTL_API": "3"},
        )
        yield f"http://{url}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    """True if somebody accepts: etcdctl, if refused at first, would wait a second before it tries again."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now; somebody may take one before it is used, which is why `start` tries again."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
