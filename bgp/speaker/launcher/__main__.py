"""python -m bgp.speaker.launcher: exits with 0 when exabgp runs, in a process that nobody waits for; must not know BGP."""

from __future__ import annotations

import os
import sys

from bgp.detached import Started, detach
from bgp.speaker.launcher.settings import parse


def main() -> int:
    """Start exabgp. Why it cannot be started is said in one line on standard error, and by the exit status (`start`)."""
    settings = parse(sys.argv[1:])

    def work(started: Started) -> int:
        os.environ.update(settings.environment())  # exabgp reads it as it is imported
        from bgp.speaker.launcher.start import start

        return start(settings, started)

    return detach(work)


if __name__ == "__main__":
    sys.exit(main())
