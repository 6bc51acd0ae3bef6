"""The stand-in: what the client becomes when flanneld is away; one call by the same code, in a process of its own.

tartan-cni-fallback PLUGIN < config
"""

from __future__ import annotations

import os
import sys

from cni.engine import about, opened_netns, refusal
from cni.service import JOURNAL, Service
from cni.spec import NEWEST, CniError, Code
from flanneld import FlanneldError, log

PATIENCE_S = 10.0
"""For other calls' stand-ins, and for a daemon that is on its way out, to leave the journal."""


def main() -> int:
    """Answer one call; returns the exit code."""
    log.set_up("text")
    plugin = sys.argv[1] if len(sys.argv) > 1 else "tartan-cni"
    if not os.environ.get("CNI_COMMAND"):
        answer = about(plugin)
    else:
        stdin = sys.stdin.buffer.read()
        try:
            with Service(JOURNAL, lasting=False, patience_s=PATIENCE_S) as service, opened_netns(os.environ) as netns:
                answer = service.answer(plugin, os.environ, stdin, netns)
        except FlanneldError as error:
            answer = refusal(CniError(Code.TRY_LATER, "flanneld is not running", str(error)), NEWEST)
    sys.stdout.buffer.write(answer.stdout)
    sys.stderr.buffer.write(answer.stderr)
    return answer.exit_code


if __name__ == "__main__":
    sys.exit(main())
