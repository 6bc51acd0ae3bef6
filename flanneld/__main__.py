"""The `flanneld` command: argv and environment in, signals and exit code out; must not know what the daemon does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from flanneld import FlanneldError, log, notify
from flanneld.daemon import run
from flanneld.flags import Options, parse_flags

FAILED = 1
TURN_S = 0.0005
"""For how long one thread may keep the interpreter while another wants it: a pod's CNI call takes a few milliseconds in all."""

events = log.Log("flanneld")


def main() -> int:
    """Run flanneld with this process's arguments; returns the exit code."""
    options = parse_flags(sys.argv[1:], os.environ)
    log.set_up(options.log_format, debug=options.debug)
    sys.setswitchinterval(TURN_S)
    return asyncio.run(_serve(options))


async def _serve(options: Options) -> int:
    """Serve until SIGTERM or SIGINT, which end it in order and well; the data plane goes on forwarding."""
    serving = asyncio.create_task(run(options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await serving
        return 0  # a dry run: others do not end by themselves
    except asyncio.CancelledError:
        notify.stopping()
        events.info("stopped")
        return 0
    except FlanneldError as error:
        failures: list[Exception] = [error]
    except ExceptionGroup as group:
        failures = leaves(group)
    for failure in failures:
        if not isinstance(failure, FlanneldError):
            raise failure
        events.error("failed", why=failure)
    return FAILED


def leaves(group: ExceptionGroup) -> list[Exception]:
    """The exceptions that a group of groups was made of."""
    found: list[Exception] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, ExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    sys.exit(main())
