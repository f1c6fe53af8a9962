"""`rainfs node serve`: the daemon that lends the space of a directory."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click
import trio

from rainfs.cli.daemon import ReadyPipe
from rainfs.cli.sizes import SIZE
from rainfs.errors import InputError
from rainfs.model import NodeUuid
from rainfs.node.run import run_node

PID_FILE_NAME = "node.pid"
"""In the storage directory: the process that serves it, or served it last."""


def parse_labels(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the labels of `k=v` options.  Raises: InputError."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InputError(f"label {pair!r}: write it as key=value")
        labels[key] = value
    return labels


@click.command("serve")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--listen", metavar="HOST:PORT", required=True, help="Loopback only, for now.")
@click.option("--capacity", type=SIZE, metavar="SIZE", help="Space to lend, such as 100G.")
@click.option("--name", help="Name of the node; remembered.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Repeatable; remembered.")
@click.option("--ready-fd", type=int, hidden=True)
def serve_command(
    directory: Path,
    listen: str,
    capacity: int | None,
    name: str | None,
    labels: tuple[str, ...],
    ready_fd: int | None,
) -> None:
    """Lend the space in DIR to a volume, until SIGTERM.

    The capacity is needed the first time; afterwards the recorded one holds until another is given.
    """
    pipe = ReadyPipe(ready_fd)
    with pipe.reporting():

        def up(uuid: NodeUuid, host: str, port: int) -> None:
            (directory / PID_FILE_NAME).write_text(f"{os.getpid()}\n")
            pipe.ready()
            click.echo(f"serving {directory} on rain://{host}:{port}", err=True)

        trio.run(
            partial(
                run_node,
                directory.absolute(),
                listen,
                capacity_bytes=capacity,
                name=name,
                labels=parse_labels(labels) or None,
                ready=up,
            )
        )
