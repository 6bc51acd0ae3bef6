"""The `tartan` command: finds the sub-command, and says errors in one line; must not know what any of them does."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from cni.spec import CniError
from flanneld import FlanneldError
from lab import LabError

COMMANDS = {
    "bgp": "tartan.bgp:bgp",
    "cleanup": "tartan.cleanup:cleanup",
    "cni": "tartan.cni:cni",
    "doctor": "tartan.doctor:doctor",
    "lab": "tartan.lab:lab",
    "leases": "tartan.leases:leases",
    "runtime": "tartan.runtime:runtime",
}
"""Sub-command -> where it is; imported only when it is asked for."""


class LazyGroup(click.Group):
    """A group of the commands in the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tartan")
def tartan() -> None:
    """Overlay networks for hosts and pods."""


def main() -> None:
    """The console script."""
    try:
        tartan()
    except (CniError, FlanneldError, LabError, OSError) as error:
        sys.exit(f"tartan: {error}")


if __name__ == "__main__":
    main()
