"""What a peer is, and the order in which whatever it started goes away again.

Invariants: everything a peer makes lives below its own base directory or is registered on its exit
stack before it is made, so that a failure half way leaves nothing mounted and nothing running.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Protocol


class PeerFailed(Exception):
    """A peer did not start; the message says why. The run goes on without it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A mounted peer. `remount` empties caches of its own; `pids` are its processes, if known."""

    directory: Path
    remount: Callable[[], None] = lambda: None
    pids: Callable[[], Iterable[int]] = lambda: ()


class Peer(Protocol):
    """One file system to measure.

    `keeps_bytes` is false where contents are not stored and cannot be compared.
    """

    @property
    def name(self) -> str: ...

    @property
    def keeps_bytes(self) -> bool: ...

    def lacking(self) -> str | None:
        """Say what this machine lacks to run it; None if nothing."""

    def start(self, base: Path, stack: ExitStack) -> Running:
        """Start and mount it below `base`; `stack` undoes it. Raises: PeerFailed, OSError."""


def lacking_commands(*commands: str) -> str | None:
    missing = [command for command in commands if which(command) is None]
    return f"not installed: {', '.join(missing)}" if missing else None
