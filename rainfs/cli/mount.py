"""`rainfs mount`: mounts a volume, in the background unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import click
import trio

from rainfs.cli.background_mount import mount_in_background
from rainfs.cli.compose import MountRequest, run_mount
from rainfs.cli.daemon import ReadyPipe
from rainfs.cli.volume_url import absolute, meta_url
from rainfs.memory import keep_freed_memory
from rainfs.mount.options import parse_options


@click.command("mount", short_help="Mount a volume.")
@click.argument("volume", metavar="META_URL")
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("-o", "options", multiple=True, metavar="OPT[,OPT...]", help="Mount options.")
@click.option("--foreground", is_flag=True, help="Serve in this process, log to stderr.")
@click.option("--log", "log_path", metavar="FILE", help="Log file  [default: beside the database]")
@click.option("--ready-fd", type=int, hidden=True)
def mount_command(
    volume: str,
    mountpoint: str,
    options: tuple[str, ...],
    foreground: bool,
    log_path: str | None,
    ready_fd: int | None,
) -> None:
    """Mount the volume whose metadata is at META_URL; returns when the mount answers."""
    if foreground or ready_fd is not None:
        pipe = ReadyPipe(ready_fd)
        with pipe.reporting():
            serve(meta_url(volume), mountpoint, options, log_path, pipe)
        return
    for remark in mount_in_background(meta_url(volume), mountpoint, options, log_path):
        click.echo(remark, err=True)


def serve(
    url: str, mountpoint: str, options: Sequence[str], log_path: str | None, pipe: ReadyPipe
) -> None:
    """Serve the mount in this process until it is unmounted."""
    request = MountRequest(
        url=url,
        mountpoint=absolute(mountpoint),
        options=parse_options(options),
        log_path=log_path,
    )
    keep_freed_memory()
    trio.run(run_mount, request, pipe.ready)
