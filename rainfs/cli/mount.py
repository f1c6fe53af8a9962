"""`rainfs mount`: mounts a volume, in the background unless told otherwise."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import click
import trio

from rainfs.cli.compose import MountRequest, run_mount
from rainfs.cli.daemon import ReadyPipe, StartFailed, start_in_background
from rainfs.cli.volume_url import absolute, database_of, lies_below, meta_url
from rainfs.errors import InputError, MetadataAbsent
from rainfs.mount.options import parse_options

MOUNT_TIMEOUT_S = 60.0
"""Longest wait for a mount in the background; the sweep of a crashed one is part of it."""

ANSWER_TIMEOUT_S = 10.0
"""Longest wait for the first statfs of a mount that called itself ready."""


@click.command("mount")
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
    trio.run(run_mount, request, pipe.ready)


def mount_in_background(
    url: str, mountpoint: str, options: Sequence[str] = (), log_path: str | None = None
) -> Sequence[str]:
    """Mount and return the remarks of the new process once the mount answers a statfs.

    Raises: InputError, StartFailed with the process's own reason.
    """
    where = absolute(mountpoint)
    parse_options(options)
    database = database_of(url)
    if not database.exists():
        raise MetadataAbsent(f"{database}: there is no metadata database")
    log = Path(absolute(log_path)) if log_path else database.with_name(database.name + ".log")
    for what, path in (("the metadata database", database), ("the log", log)):
        if lies_below(str(path), where):
            raise InputError(f"{path}: {what} must not lie below the mount point")
    arguments = ["mount", url, where, "--log", str(log)]
    for option in options:
        arguments += ["-o", option]
    _, report = start_in_background(arguments, log=log, timeout_s=MOUNT_TIMEOUT_S)
    await_answer(where)
    return report.remarks


def await_answer(mountpoint: str) -> None:
    """Return once the mount answers a statfs.  Raises: StartFailed."""
    answered = threading.Event()

    def ask() -> None:
        os.statvfs(mountpoint)
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    if not answered.wait(ANSWER_TIMEOUT_S):
        raise StartFailed(f"{mountpoint}: mounted, but it does not answer")
