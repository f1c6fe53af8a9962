"""Mounting in a process of its own: starts it, and returns when the mount answers.

Refuses, before anything is started, what can be known to fail.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from rainfs.cli.daemon import StartFailed, start_in_background
from rainfs.cli.volume_url import absolute, database_of, lies_below
from rainfs.errors import InputError, MetadataAbsent
from rainfs.mount.mountpoint import prepare
from rainfs.mount.options import parse_options

MOUNT_TIMEOUT_S = 60.0
"""Longest wait for a mount in the background; the sweep of a crashed one is part of it."""

ANSWER_TIMEOUT_S = 10.0
"""Longest wait for the first statfs of a mount that called itself ready."""


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
    prepare(Path(where))
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
