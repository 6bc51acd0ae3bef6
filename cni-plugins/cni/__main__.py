"""The stand-in: what the client becomes when flanneld is away; one call by the same code, in a process of its own.

tartan-cni-fallback PLUGIN < config
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from cni.engine import about, opened_netns, refusal
from cni.journal import JournalBusy
from cni.service import JOURNAL, Service
from cni.spec import NEWEST, CniError, Code
from flanneld import FlanneldError, log

PATIENCE_S = 10.0
"""For other calls' stand-ins, and for a daemon that is on its way out, to leave the journal."""
LOOK_S = 0.1
"""How often it is looked, meanwhile, whether a daemon serves again: then it has the journal for good."""
CLIENT, SOCKET = "tartan-cni", "/run/flannel/cni.sock"
ASKED_AGAIN = "TARTAN_CNI_ASKED_AGAIN"
"""The daemon that came has had its chance."""


def main() -> int:
    """Answer one call; returns the exit code."""
    log.set_up("text")
    plugin = sys.argv[1] if len(sys.argv) > 1 else "tartan-cni"
    if not os.environ.get("CNI_COMMAND"):
        answer = about(plugin)
    else:
        stdin = sys.stdin.buffer.read()
        try:
            with _opened(plugin) as service, opened_netns(os.environ) as netns:
                answer = service.answer(plugin, os.environ, stdin, netns)
        except FlanneldError as error:
            answer = refusal(CniError(Code.TRY_LATER, "flanneld is not running", str(error)), NEWEST)
    sys.stdout.buffer.write(answer.stdout)
    sys.stderr.buffer.write(answer.stderr)
    return answer.exit_code


def _opened(plugin: str) -> Service:
    """With the journal, as soon as nobody else has it; does not return if there is a daemon by now. Raises FlanneldError."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return Service(JOURNAL, lasting=False, patience_s=LOOK_S)
        except JournalBusy:
            if time.monotonic() > give_up_at:
                raise
        if ASKED_AGAIN not in os.environ and _is_served():
            os.environ[ASKED_AGAIN] = "1"
            with suppress(OSError):  # standard input cannot be read again, say: then it was not the client that called us
                os.lseek(0, 0, os.SEEK_SET)
                os.execv(Path(sys.argv[0]).with_name(CLIENT), [plugin])  # noqa: S606  # no shell is what we want


def _is_served() -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(os.environ.get("TARTAN_CNI_SOCKET", SOCKET))
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
