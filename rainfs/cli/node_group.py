"""`rainfs node`: the group of commands about storage nodes."""

from __future__ import annotations

import click

from rainfs.cli.lazy import LazyGroup

COMMANDS = {
    "add": "rainfs.cli.node:add_command",
    "list": "rainfs.cli.node:list_command",
    "serve": "rainfs.cli.serve:serve_command",
}


@click.group("node", short_help="Serve, add or list storage nodes.", cls=LazyGroup, places=COMMANDS)
def node_group() -> None:
    """Storage nodes: serve one, add one to a volume, list a volume's."""
