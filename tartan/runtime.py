"""`tartan runtime`: the container engine, served to docker and kubelet; must not know how either speaks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from flanneld import log
from runtime.layout import ROOT, RUN, Layout
from runtime.settings import CRI_SOCKET, DOCKER_SOCKET, MIB, Settings

DEFAULTS = Settings()

path = click.Path(path_type=Path)


@click.group()
def runtime() -> None:
    """Run containers: images, networks and volumes behind the Docker Engine API and CRI."""


@runtime.command()
@click.option("--root", type=path, default=ROOT, show_default=True, help="What lasts: images, containers, volumes.")
@click.option("--run", "run_dir", type=path, default=RUN, show_default=True, help="What a reboot clears.")
@click.option("--socket", type=path, help="The Engine API's socket.  [default: docker.sock in --run]")
@click.option("--cri-socket", type=path, help="CRI's socket.  [default: cri.sock in --run]")
@click.option("--no-cri", is_flag=True, help="Do not serve CRI.")
@click.option(
    "-G", "--group", default="docker", show_default=True, help="Whose members may use the Engine API, which makes them root."
)
@click.option("--runc", help="The OCI runtime.  [default: runc, beside this program or on PATH]")
@click.option("--registry-mirror", multiple=True, metavar="URL", help="Asked first for Docker Hub's images; may be repeated.")
@click.option("--insecure-registry", multiple=True, metavar="HOST|CIDR", help="Spoken to without TLS; may be repeated.")
@click.option("--cni-conf-dir", type=path, default=Path("/etc/cni/net.d"), show_default=True)
@click.option("--cni-bin-dir", type=path, default=Path("/opt/cni/bin"), show_default=True)
@click.option("--dns", multiple=True, metavar="ADDRESS", help="For containers that name none; may be repeated.")
@click.option("--bip", default=DEFAULTS.bip, show_default=True, help="docker0's address and network.")
@click.option(
    "--log-max-size", type=int, default=DEFAULTS.log_max_bytes // MIB, show_default=True, help="MiB of a log; 0: no limit."
)
@click.option("--log-max-file", type=int, default=DEFAULTS.log_max_files, show_default=True, help="Files of a log.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Shown by docker info; may be repeated.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("-D", "--debug", is_flag=True)
def serve(log_format: str, debug: bool, **options: Any) -> None:
    """Serve the Engine API and CRI until SIGTERM; what runs goes on without us, and the next engine finds it."""
    from runtime.engine import serve as serve_engine  # loads all of it, which other sub-commands need not wait for

    if os.geteuid() != 0:
        raise click.UsageError("the container engine is root's to run: use sudo")
    log.set_up(log_format, debug=debug)
    asyncio.run(serve_engine(settings_of(options)))


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The engine's settings by what the options are called above."""
    run: Path = options["run_dir"]
    cri: Path | None = options["cri_socket"] or run / CRI_SOCKET
    return Settings(
        layout=Layout(options["root"], run),
        socket=options["socket"] or run / DOCKER_SOCKET,
        cri_socket=None if options["no_cri"] else cri,
        group=options["group"],
        runc=options["runc"] or "",
        registry_mirrors=options["registry_mirror"],
        insecure_registries=options["insecure_registry"],
        cni_conf_dir=options["cni_conf_dir"],
        cni_bin_dir=options["cni_bin_dir"],
        dns=options["dns"],
        bip=options["bip"],
        log_max_bytes=options["log_max_size"] * MIB,
        log_max_files=options["log_max_file"],
        labels=options["label"],
    )
