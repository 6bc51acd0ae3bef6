"""Root is given up in a process of its own, which cannot get it back."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os
from flanneld.linux import privileges
{action}
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
print(*status["Uid"].split(), *status["Gid"].split(), status["Groups"].strip() or "none")
print(*(int(status[f"Cap{{kind}}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")), status["NoNewPrivs"])
for attempt in (lambda: os.setuid(0), lambda: os.chown("/", 0, 0), lambda: os.setgroups([0])):
    try:
        attempt()
    except PermissionError:
        print("no")
print(os.spawnvp(os.P_WAIT, "setpriv", ["setpriv", "--reuid=0", "true"]))
"""


def result(action: str) -> list[str]:
    command = ["setpriv", "--inh-caps=+net_raw,+chown", sys.executable, "-c", PROGRAM.format(action=action)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_nobody_has_no_rights_and_no_way_back() -> None:
    nobody = " ".join(["65534"] * 8)
    assert result('privileges.become("nobody")') == [f"{nobody} none", "0 0 0 0 1", "no", "no", "no", "127"]


def test_root_without_capabilities_is_root_by_name_alone() -> None:
    said = result("privileges.drop_capabilities()")
    assert said[1] == "0 0 0 0 1"
    assert said[2] == "no"


@pytest.mark.parametrize("user", ["no such user"])
def test_a_user_that_there_is_not_is_an_error(user: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        result(f"privileges.become({user!r})")
