"""`rainfs umount`: returns when every byte is durable and the mount's process is gone.

The kernel detaches the mount point before the process has flushed, so an ordinary umount(8) says
too little.  The process is watched through a pidfd taken before the unmount: no reused process
number can be mistaken for it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import click
import trio

from rainfs.cli.access import opened_engine
from rainfs.cli.volume_url import Mount, lies_below, rainfs_mount_on
from rainfs.errors import MountPointError, RainError
from rainfs.meta.sessions import SessionRow, list_sessions
from rainfs.mount.mountpoint import unmount

FUSECTL = Path("/sys/fs/fuse/connections")
PATIENCE_S = 3.0
"""How long an unmount may take before the user is told what it waits for."""

BUSY_S = 1.0
BUSY_PAUSE_S = 0.02
"""A mount is busy for the moment of a call by path already: it is tried again for so long."""

FORCED_EXIT_S = 10.0
"""How long an aborted mount may take to end before it is killed."""


class FlushFailed(RainError):
    """The mount ended without making everything durable."""


@click.command("umount", short_help="Unmount; returns when all is durable.")
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("--force", is_flag=True, help="Abort the mount, even if it is busy or stuck.")
def umount_command(mountpoint: str, force: bool) -> None:
    """Unmount; returns when all is durable and the mount's process is gone."""
    unmount_and_wait(mountpoint, force=force)


def unmount_and_wait(mountpoint: str, *, force: bool = False) -> None:
    """Unmount and wait.  Raises: MountPointError when busy or not ours, FlushFailed."""
    mount = rainfs_mount_on(mountpoint)
    session: SessionRow | None = None
    try:
        session = trio.run(_session_of, mount)
    except RainError:
        if not force:
            raise
    pidfd = _pidfd(session.pid if session is not None else _process_of(mount))
    try:
        if force:
            _abort(mount)
        _detach(mount, lazily=force)
        if pidfd is not None:
            _wait(pidfd, force=force)
    finally:
        if pidfd is not None:
            os.close(pidfd)
    if session is not None and not trio.run(_ended_well, mount.source, session.epoch):
        raise FlushFailed(
            f"{mountpoint}: the mount ended before everything was durable; see its log"
        )


async def _session_of(mount: Mount) -> SessionRow | None:
    """Return the living session of this mount; None when its process is dead already."""
    async with opened_engine(mount.source) as engine:
        rows = await list_sessions(engine)
    own = [row for row in rows if row.alive and row.mountpoint == mount.mountpoint]
    return max(own, key=lambda row: row.epoch, default=None)


async def _ended_well(url: str, epoch: int) -> bool:
    """A session that ended in order has taken its row away."""
    async with opened_engine(url) as engine:
        return all(row.epoch != epoch for row in await list_sessions(engine))


def _process_of(mount: Mount) -> int | None:
    """Return the process of a mount without a session (a read-only one), by its arguments."""
    wanted = os.fsencode(mount.mountpoint)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if b"mount" in arguments and b"--ready-fd" in arguments and wanted in arguments:
                    return int(process.name)
    return None


def _pidfd(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _detach(mount: Mount, *, lazily: bool) -> None:
    """Take the mount point away.  Raises: MountPointError, naming who keeps it busy."""
    until_s = time.monotonic() + BUSY_S
    while True:
        try:
            unmount(Path(mount.mountpoint), lazy=lazily)
            return
        except MountPointError as error:
            if "busy" not in str(error):
                raise
            if time.monotonic() >= until_s:
                users = users_of(mount.mountpoint)
                whose = f": in use by {', '.join(users)}" if users else ""
                raise MountPointError(f"{mount.mountpoint} is busy{whose}") from error
        time.sleep(BUSY_PAUSE_S)


def _abort(mount: Mount) -> None:
    """Fail every request that waits, through the connection's control file."""
    control = FUSECTL / str(mount.minor) / "abort"
    if not control.exists():
        subprocess.run(
            ["mount", "-t", "fusectl", "none", FUSECTL], capture_output=True, check=False
        )
    try:
        control.write_text("1")
    except OSError as error:
        raise MountPointError(f"{mount.mountpoint}: cannot abort: {error.strerror}") from error


def _wait(pidfd: int, *, force: bool) -> None:
    """Wait for the end of the process behind `pidfd`; kill it if it was aborted and lingers."""
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    if not force:
        if not ended.poll(PATIENCE_S * 1000):
            click.echo("waiting until everything is durable", err=True)
            ended.poll()
        return
    if not ended.poll(FORCED_EXIT_S * 1000):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended.poll()


def users_of(mountpoint: str) -> list[str]:
    """Return the processes whose directory, root or open files lie on the mount, for a message."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        links = [process / "cwd", process / "root"]
        with suppress(OSError):
            links += list((process / "fd").iterdir())
        for link in links:
            target = ""
            with suppress(OSError):
                target = os.readlink(link)
            if lies_below(target, mountpoint):
                with suppress(OSError):
                    found.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
                break
    return found
