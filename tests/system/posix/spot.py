"""A directory to test in, on the mount or on the local reference, with what tests do there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from tests.system.posix.actor import Actor, Actors
from tests.system.posix.checks import CHECKS, name_of, number_of

CONTENT = b"content"


class Spot:
    """One test's own directory."""

    def __init__(self, place: str, root: Path, directory: Path, actors: Actors) -> None:
        self.place = place
        self.root = root
        self.path = directory
        self._actors = actors

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def mounted(self) -> bool:
        """Whether this is the mount, not the reference."""
        return self.place == "mount"

    # --- Checks. ---

    def same(self, got: object, want: object, what: object = "") -> None:
        """Check that two values are equal."""
        CHECKS.note(self.place, got == want, f"{what}: {got!r} instead of {want!r}")

    def true(self, holds: object, what: object) -> None:
        """Check that something holds."""
        CHECKS.note(self.place, bool(holds), f"does not hold: {what}")

    def gives(self, want: int, call: Callable[..., object], *arguments: object) -> bool:
        """Check that a call fails with an errno (0: succeeds); returns whether it did."""
        got = number_of(call, *arguments)
        shown = ", ".join(_shown(argument) for argument in arguments)
        name = getattr(call, "__name__", repr(call))
        CHECKS.note(
            self.place, got == want, f"{name}({shown}): {name_of(got)} instead of {name_of(want)}"
        )
        return got == want

    # --- What tests make. ---

    def file(self, name: str, content: bytes = CONTENT, mode: int = 0o644) -> Path:
        """Make or overwrite a file."""
        path = self.path / name
        path.write_bytes(content)
        os.chmod(path, mode)
        return path

    def directory(self, name: str, mode: int = 0o755) -> Path:
        """Make a directory."""
        path = self.path / name
        path.mkdir()
        os.chmod(path, mode)
        return path

    def below(self, name: str) -> Spot:
        """Return a spot in a new directory of this one."""
        return Spot(self.place, self.root, self.directory(name), self._actors)

    # --- Who tests are. ---

    def user(self, uid: int, gid: int | None = None, *groups: int) -> Actor:
        """Return a process of a user; it stays until the run ends."""
        return self._actors.get(uid, uid if gid is None else gid, groups)

    def process(self) -> Actor:
        """Return a new process of ours; the caller closes it."""
        return Actor(self.root, os.geteuid(), os.getegid(), ())


def _shown(argument: object) -> str:
    if isinstance(argument, Path):
        argument = argument.name
    text = repr(argument)
    return text if len(text) <= 60 else f"{text[:40]}...({len(text)})"


def permissions(path: Path | str | int) -> int:
    """Return the twelve mode bits, of a link itself."""
    found = os.stat(path) if isinstance(path, int) else os.lstat(path)
    return stat.S_IMODE(found.st_mode)
