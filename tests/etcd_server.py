"""A real etcd for tests, on free loopback ports and in a directory of its own; it ends with the test, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    """One single-member etcd, which can be stopped and started again on the same ports and data."""

    directory: Path
    certificates: Certificates | None = None
    client_certificates: bool = False
    """Ask every client for a certificate."""
    port: int = 0
    peer_port: int = 0
    user: str = ""
    """name:password for `ctl`, once authentication is on."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificates else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers; fresh ports are found the first time."""
        fresh = not self.port
        for _ in range(START_TRIES):
            if fresh:
                self.port, self.peer_port = _free_ports(2)
            self._spawn()
            if self._answers():
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

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl and return what it prints."""
        return self._ctl(arguments, timeout_s=30).stdout.decode()

    def _spawn(self) -> None:
        urls, peer_url = self.endpoint, f"http://127.0.0.1:{self.peer_port}"
        command = [find_program("etcd"), "--name=t", f"--data-dir={self.directory / 'data'}", f"--initial-cluster=t={peer_url}"]
        command += ["--heartbeat-interval=20", "--election-timeout=200"]  # alone, it elects itself as soon as it may
        command += [f"--listen-client-urls={urls}", f"--advertise-client-urls={urls}"]
        command += [f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"]
        if self.certificates:
            command += [f"--cert-file={self.certificates.server}", f"--key-file={self.certificates.server_key}"]
        if self.certificates and self.client_certificates:
            command += ["--client-cert-auth", f"--trusted-ca-file={self.certificates.ca}"]
        with (self.directory / "log").open("ab") as log:
            # setpriv: a killed test run takes its etcd with it.
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)

    def _answers(self) -> bool:
        deadline = time.monotonic() + READY_S
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
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
