"""CNI plugins that attach nothing: executables that write down what they were told and answer what a test wants."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = f"""#!{sys.executable} -IS
import json, os, sys, time
here, plugin = os.path.split(sys.argv[0])
command = os.environ["CNI_COMMAND"]
stdin = json.loads(sys.stdin.read())
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps([plugin, command, stdin, dict(os.environ), os.getpid()]) + "\\n")
answers = {{}}
if os.path.exists(here + "/answers"):
    answers = json.load(open(here + "/answers"))
answer = answers.get(plugin + " " + command, {{}})
time.sleep(answer.get("sleep", 0))
sys.stderr.write(answer.get("stderr", ""))
if "stdout" in answer:
    print(answer["stdout"])
elif command == "ADD":
    result = stdin.get("prevResult", {{"cniVersion": stdin["cniVersion"], "dns": {{}}}})
    result["interfaces"] = result.get("interfaces", []) + [{{"name": plugin}}]
    print(json.dumps(result))
elif command == "VERSION":
    print(json.dumps({{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}}))
sys.exit(answer.get("exit", 0))
"""


@dataclass(frozen=True, slots=True)
class Told:
    """One call that was made."""

    plugin: str
    command: str
    stdin: dict[str, Any]
    environ: dict[str, str]
    pid: int


@dataclass(frozen=True, slots=True)
class RecordingPlugins:
    """A directory of them."""

    directory: Path

    def answer(self, call: str, **how: Any) -> None:
        """How `PLUGIN COMMAND` goes from now on: stdout, stderr, exit, sleep (seconds)."""
        file = self.directory / "answers"
        answers = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(answers | {call: how}))

    def fail(self, call: str, code: int = 999, message: str = "no", details: str = "") -> None:
        """`PLUGIN COMMAND` fails from now on as the spec says."""
        error = {"cniVersion": "1.0.0", "code": code, "msg": message, "details": details}
        self.answer(call, stdout=json.dumps(error), exit=1)

    def calls(self) -> list[Told]:
        """What was called since the last time somebody asked."""
        file = self.directory / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [Told(*json.loads(line)) for line in lines]

    def said(self) -> list[str]:
        """The same as `PLUGIN COMMAND`."""
        return [f"{told.plugin} {told.command}" for told in self.calls()]


def recording_plugins(directory: Path, *names: str) -> RecordingPlugins:
    """Make them."""
    directory.mkdir()
    for name in names:
        (directory / name).write_text(SCRIPT)
        (directory / name).chmod(0o755)
    return RecordingPlugins(directory)


def conflist_text(*plugins: Mapping[str, Any] | str, version: str = "1.1.0", name: str = "net", **keys: Any) -> str:
    """A .conflist of these plugins."""
    listed = [{"type": plugin} if isinstance(plugin, str) else plugin for plugin in plugins]
    return json.dumps({"cniVersion": version, "name": name, "plugins": listed, **keys})
