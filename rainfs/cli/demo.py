"""`rainfs demo`: a whole array on this machine, from nothing to a mounted directory, and back."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from rainfs.cli.background_mount import mount_in_background
from rainfs.cli.local_array import DATABASE_NAME, LocalArray, Shape, load_local_array, local_array
from rainfs.cli.serve import PID_FILE_NAME
from rainfs.cli.sizes import SIZE, format_size
from rainfs.cli.umount import unmount_and_wait
from rainfs.cli.volume_url import Mount, absolute, database_of, lies_below, mount_on, url_of
from rainfs.errors import InputError, MountPointError
from rainfs.mount.mountpoint import is_dead


@click.command("demo", short_help="Run and mount an array on this machine.")
@click.argument("mountpoint", metavar="MOUNTPOINT")
@click.option("--dir", "directory", metavar="DIR", help="Where nodes and metadata are kept.")
@click.option("--nodes", type=click.IntRange(1, 255), help="Storage nodes.  [default: 6]")
@click.option("--data", type=int, help="Data shards in a stripe.  [default: 4]")
@click.option("--parity", type=int, help="Parity shards in a stripe.  [default: 2]")
@click.option("--capacity", type=SIZE, metavar="SIZE", help="Of each node.  [default: what fits]")
@click.option("-o", "options", multiple=True, metavar="OPT[,OPT...]", help="Mount options.")
@click.option("--stop", is_flag=True, help="Unmount and stop the nodes; the data stays.")
@click.option("--purge", is_flag=True, help="With --stop: delete the data as well.")
def demo(
    mountpoint: str,
    directory: str | None,
    nodes: int | None,
    data: int | None,
    parity: int | None,
    capacity: int | None,
    options: tuple[str, ...],
    stop: bool,
    purge: bool,
) -> None:
    """Run an array of storage nodes on this machine and mount it on MOUNTPOINT.

    Run again, it starts whatever is not running, on the data that is there.
    """
    if purge and not stop:
        raise click.UsageError("--purge goes with --stop")
    where = absolute(mountpoint)
    home = Path(absolute(directory)) if directory else default_directory(where)
    if stop:
        _stop(where, home, purge=purge)
        return
    shape = Shape(nodes=nodes, data=data, parity=parity, capacity_bytes=capacity)
    _start(where, home, shape, options)


def default_directory(mountpoint: str) -> Path:
    """Return where a demo on `mountpoint` is kept unless the user says otherwise."""
    slug = mountpoint.strip("/").replace("/", "-") or "root"
    if os.geteuid() == 0:
        return Path("/var/lib/rainfs") / f"demo-{slug}"
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data_home) / "rainfs" / f"demo-{slug}"


def _start(mountpoint: str, home: Path, shape: Shape, options: Sequence[str]) -> None:
    mount = mount_on(mountpoint)
    if mount is None:
        _make_mount_point(Path(mountpoint))
    elif mount.source != url_of(home / DATABASE_NAME):
        raise MountPointError(f"{mountpoint}: {mount.source} is mounted there already")
    if lies_below(str(home), mountpoint):
        raise InputError(f"{home}: the demo must not lie below its own mount point")
    array = local_array(home, mountpoint, shape)
    started = array.start_nodes()
    record = array.record
    click.echo(
        f"nodes:   {len(record.ports)} in {home}, {format_size(record.capacity_bytes)} each; "
        + (f"started {len(started)}" if started else "all were running")
    )
    if array.make_volume():
        click.echo(f"volume:  made, every stripe coded {record.data}+{record.parity}")
    if mount is not None and not is_dead(Path(mountpoint)):
        click.echo(f"mount:   {mountpoint} was mounted already")
        return
    for remark in mount_in_background(array.meta_url, mountpoint, options):
        click.echo(f"note:    {remark}")
    click.echo(f"mount:   {mountpoint} is ready; any {record.parity} of the nodes may die")
    _suggest(array, mountpoint)


def _make_mount_point(path: Path) -> None:
    if not path.exists() and path.parent.is_dir():
        path.mkdir()


def _suggest(array: LocalArray, mountpoint: str) -> None:
    me = "rainfs" if shutil.which("rainfs") == sys.argv[0] else sys.argv[0]
    doomed = array.numbers[: array.record.parity]
    pids = " ".join(str(array.node_directory(number) / PID_FILE_NAME) for number in doomed)
    lines = [
        (f"cp -a /usr/include {mountpoint}/", "put something there"),
        (f"kill -9 $(cat {pids})", f"lose {len(doomed)} of the nodes"),
        (f"diff -r --no-dereference /usr/include {mountpoint}/include", "it is all there"),
        (f"{me} status {mountpoint}", "see who is missing"),
        (f"{me} demo {mountpoint}", "start again what does not run"),
        (f"{me} demo --stop {mountpoint}", "with --purge: and delete the data"),
    ]
    click.echo("try:")
    for command, purpose in lines if doomed else lines[:1] + lines[3:]:
        click.echo(f"  {command}  # {purpose}")


def _stop(mountpoint: str, home: Path, *, purge: bool) -> None:
    mount = mount_on(mountpoint)
    array = load_local_array(_home_of(mount) or home)
    if array is None or array.record.mountpoint != mountpoint:
        raise InputError(f"{home}: no demo for {mountpoint} there (say --dir if it is elsewhere)")
    if mount is not None and mount.source == array.meta_url:
        unmount_and_wait(mountpoint)
        click.echo(f"mount:   {mountpoint} is unmounted, everything is durable")
    stopped = array.stop_nodes()
    click.echo(f"nodes:   {len(stopped)} stopped")
    if purge:
        array.purge()
        click.echo(f"data:    {array.directory} is deleted")
    else:
        click.echo(f"data:    stays in {array.directory}")


def _home_of(mount: Mount | None) -> Path | None:
    """Return the directory of the demo that is mounted, wherever `--dir` put it."""
    if mount is None or not mount.ours:
        return None
    return database_of(mount.source).parent
