"""python -m bgp.bfd: exits with 0 when BFD runs, in a process that nobody waits for; must not know what it is told then."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from bgp.bfd.server import BfdServer
from bgp.bfd.settings import Settings, parse
from bgp.bounded_log import BoundedLog
from bgp.detached import Started, detach, give_up_rights, listen_privately
from flanneld.log import set_up

FAILED = 1


def main() -> int:
    """Start it. Why it cannot be started is said in one line on standard error."""
    return detach(partial(work, parse(sys.argv[1:])))


def work(settings: Settings, started: Started) -> int:
    """Serve to the end. Nothing that BFD opens needs root: RFC 5881's ports are above 1023, and so the process has no rights."""
    server = BfdServer(settings)
    try:
        log, listener = BoundedLog(settings.log), listen_privately(settings.socket)

        def listening() -> None:
            give_up_rights(settings.user)
            started(log.fileno())
            sys.stderr = log
            set_up("text")

        asyncio.run(server.run(listener, listening))
    except (OSError, KeyError) as error:
        who = settings.user or "who we are"
        print(f"cannot serve in {settings.directory} as {who}: {error}", file=sys.stderr)  # noqa: T201  # whoever has started us reads it
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
