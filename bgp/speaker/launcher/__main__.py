"""python -m bgp.speaker.launcher: exits with 0 when exabgp runs, in a process that nobody waits for; must not know BGP."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bgp.speaker.launcher.settings import parse


def main() -> int:
    """Start exabgp. Why it cannot be started is said in one line on standard error, and by the exit status (`start`)."""
    settings = parse(sys.argv[1:])
    running, tell = os.pipe()
    if child := os.fork():
        os.close(tell)
        if os.read(running, 1):
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(running)
    os.environ.update(settings.environment())  # exabgp reads it as it is imported
    from bgp.speaker.launcher.start import start

    def started(log: int) -> None:
        """Nothing is kept of who started us, so that its end is none of ours."""
        os.setsid()
        with Path(os.devnull).open("r+") as nothing:
            for number, descriptor in enumerate((nothing.fileno(), nothing.fileno(), log)):
                os.dup2(descriptor, number)
        os.write(tell, b"!")
        os.close(tell)

    return start(settings, started)


if __name__ == "__main__":
    sys.exit(main())
