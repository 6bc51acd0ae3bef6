"""A plugin's executable, called once: found, told, waited for, its answer or error taken; must not know what for.

Source: CNI spec 1.1.0 section 2 (environment, streams, exit code) and "Error"; VERSION of plugins before 0.2.0 as libcni treats it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cni.spec import NEWEST, OLDEST, CniError, Code, Command
from flanneld.log import Log

log = Log(__name__)

PATH = ("/opt/cni/bin", "/usr/lib/cni")
"""Where runtimes and distributions have plugins."""
VARIABLES = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH")
"""Always set, if need be to nothing: what the runtime itself was started with is about something else."""
BUSY_S = 5.0
"""How long a plugin may be open for writing, while it is being installed."""
SHOWN = 300
"""Characters of what a plugin said that an error repeats."""


class PluginError(CniError):
    """A plugin refused, failed, did not answer or is not there; `code`, `message` and `details` are its own if it gave any."""

    def __init__(self, plugin: str, command: Command, error: CniError, stderr: bytes = b"") -> None:
        super().__init__(error.code, error.message, error.details)
        self.plugin = plugin
        self.command = command
        self.stderr = stderr.decode(errors="replace").strip()
        """All it said there."""

    def __str__(self) -> str:
        texts = [text for text in (self.message, self.details, _head(self.stderr)) if text]
        said = "; ".join(dict.fromkeys(" ".join(text.split()) for text in texts))
        return f"plugin {self.plugin} failed ({self.command}): {said} (code {int(self.code)})"


@dataclass(frozen=True, slots=True)
class Executables:
    """Plugins in directories. A call runs in the namespaces of the calling thread."""

    path: tuple[str, ...] = PATH
    """First choice first: CNI_PATH."""
    timeout_s: float = 120.0
    """How long one call of one plugin may take, before it is killed; as long as the kubelet waits for its runtime."""
    environment: Mapping[str, str] | None = None
    """What plugins get besides CNI_*; None: this process's own."""

    def call(self, plugin: str, command: Command, conf: Mapping[str, Any], about: Mapping[str, str]) -> bytes:
        """Tell a plugin to do something; returns what it printed. Raises PluginError."""
        inherited = os.environ if self.environment is None else self.environment
        own = {"CNI_COMMAND": str(command), "CNI_PATH": ":".join(self.path)}
        environment = {**inherited, **dict.fromkeys(VARIABLES, ""), **about, **own}
        try:
            ended = _run(self.find(plugin), environment, json.dumps(conf).encode(), self.timeout_s)
        except subprocess.TimeoutExpired as error:
            why = CniError(Code.FAILED, f"no answer in {self.timeout_s:g} s, so it was killed")
            raise PluginError(plugin, command, why, error.stderr or b"") from error
        except OSError as error:
            why = CniError(Code.FAILED, f"{error.filename} cannot be run: {error.strerror}")
            raise PluginError(plugin, command, why) from error
        except CniError as error:
            raise PluginError(plugin, command, error) from error
        if ended.returncode:
            raise PluginError(plugin, command, _failure(ended), ended.stderr)
        if ended.stderr.strip():
            log.info("plugin said", plugin=plugin, command=command, text=_head(ended.stderr))
        return ended.stdout

    def ask(self, plugin: str, command: Command, conf: Mapping[str, Any], about: Mapping[str, str]) -> dict[str, Any]:
        """The same; returns the JSON object that it printed. Raises PluginError."""
        printed = self.call(plugin, command, conf, about)
        try:
            answer = json.loads(printed)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            why = CniError(Code.DECODE, f"it printed {_head(printed)!r}, expected a JSON object")
            raise PluginError(plugin, command, why)
        return answer

    def versions(self, plugin: str) -> tuple[str, ...]:
        """The versions that a plugin says it speaks; raises PluginError."""
        # Plugins older than the command check the variables first, then say that they do not know it.
        about = {"CNI_CONTAINERID": "none", "CNI_NETNS": "none", "CNI_IFNAME": "none"}
        try:
            told = self.ask(plugin, Command.VERSION, {"cniVersion": NEWEST}, about).get("supportedVersions")
        except PluginError as error:
            if error.message == "unknown CNI_COMMAND: VERSION":
                return (OLDEST,)
            raise
        if not isinstance(told, list) or not all(isinstance(version, str) for version in told):
            why = CniError(Code.DECODE, f"its supportedVersions are {_head(json.dumps(told))}, expected a list of texts")
            raise PluginError(plugin, Command.VERSION, why)
        return tuple(told)

    def find(self, plugin: str) -> str:
        """The path of a plugin's executable; raises CniError."""
        if "/" in plugin:  # with which it could be any program of the machine
            raise CniError(Code.INVALID_CONFIG, f"type: got {plugin!r}, expected a plugin's name, without '/'")
        for directory in self.path:
            if os.path.isfile(candidate := os.path.join(directory, plugin)):
                return candidate
        raise CniError(Code.INVALID_CONFIG, f"there is no {plugin} in {':'.join(self.path)}")


def _run(program: str, environment: Mapping[str, str], stdin: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    process = _start(program, environment)
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except BaseException:
            with suppress(ProcessLookupError):  # a plugin has children: its IPAM plugin, iptables
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(program, process.returncode, stdout, stderr)


def _start(program: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    give_up_at, pause_s = time.monotonic() + BUSY_S, 0.01
    while True:
        try:
            # A process group of its own: so its children can be killed with it, and Ctrl-C reaches us, who clean up, and not them.
            pipe = subprocess.PIPE
            return subprocess.Popen([program], stdin=pipe, stdout=pipe, stderr=pipe, env=environment, process_group=0)
        except OSError as error:
            if error.errno != errno.ETXTBSY or time.monotonic() > give_up_at:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 1.0)


def _failure(ended: subprocess.CompletedProcess[bytes]) -> CniError:
    """The error that a plugin printed, or what can be said without one."""
    try:
        told = json.loads(ended.stdout)
        return CniError(int(told["code"]), str(told["msg"]), str(told.get("details") or ""))
    except (ValueError, TypeError, LookupError, RecursionError):
        code = ended.returncode
        how = f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}"
        said = f"it printed {_head(ended.stdout)!r}" if ended.stdout.strip() else "it printed no error"
        return CniError(Code.FAILED, f"{how}, and {said}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _head(said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    text = text.strip()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
