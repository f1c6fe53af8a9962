"""The command `rainfs`: the group of commands, and what an error looks like to a user.

Exit codes: 0 done, 1 failed, with one line on stderr and no traceback, 2 wrong usage; those of
`fsck` are its own.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence

import click

from rainfs import __version__
from rainfs.cli.daemon import reason_of
from rainfs.cli.lazy import LazyGroup

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

DEBUG_VARIABLE = "RAINFS_DEBUG"
"""When it is set, errors carry their traceback and logs are at level DEBUG."""

COMMANDS: Mapping[str, str] = {
    "demo": "rainfs.cli.demo:demo",
    "format": "rainfs.cli.format:format_command",
    "fsck": "rainfs.cli.fsck:fsck_command",
    "gc": "rainfs.cli.gc:gc_command",
    "mount": "rainfs.cli.mount:mount_command",
    "node": "rainfs.cli.node_group:node_group",
    "status": "rainfs.cli.status:status_command",
    "umount": "rainfs.cli.umount:umount_command",
}


@click.group(
    cls=LazyGroup, places=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="rainfs")
def rainfs() -> None:
    """Files striped with Reed-Solomon parity over many ordinary machines, mounted like a disk.

    Wherever a command takes a META_URL (such as sqlite:///var/lib/rainfs/rain.db) it takes the
    mount point of that volume as well.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        result = rainfs.main(
            args=None if arguments is None else list(arguments),
            prog_name="rainfs",
            standalone_mode=False,
        )
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return EXIT_FAILED
    except click.Abort:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILED
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        if debug:
            raise
        click.echo(f"rainfs: {reason_of(error)}", err=True)
        return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_FAILED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
