"""Processes that act for tests: as other users, or as rivals for a lock or a file's end.

An actor is a fork that runs calls one after another and reports what they returned or which errno
they gave.  It starts in the root of its place, whose own parents other users may not enter, so a
path below that root is handed over relative to it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.system.posix.calls import LIBC

PR_SET_PDEATHSIG = 1

ANSWER_TIMEOUT_S = 300.0
"""Far beyond what any call takes, on a machine that does much else."""


class Actor:
    """One process."""

    def __init__(self, root: Path, uid: int, gid: int, groups: tuple[int, ...]) -> None:
        self.root = root
        self.uid, self.gid = uid, gid
        self._ours, theirs = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._ours.close()
            _serve(theirs, root, uid, gid, groups)
        theirs.close()

    def __repr__(self) -> str:
        return f"user {self.uid}:{self.gid}"

    def start(self, call: Callable[..., object], *arguments: object, **named: object) -> None:
        """Have it run a call; `finish` brings the answer."""
        translated = tuple(self._translated(argument) for argument in arguments)
        self._ours.send((call, translated, named))

    def finish(self) -> Any:
        """Return what the call returned.  Raises: the OSError that it gave."""
        assert self._ours.poll(ANSWER_TIMEOUT_S), f"{self}: no answer"
        failure, answer = self._ours.recv()
        if failure is not None:
            raise failure
        return answer

    @property
    def busy(self) -> bool:
        """Whether a started call has not ended."""
        return not self._ours.poll(0)

    def run(self, call: Callable[..., object], *arguments: object, **named: object) -> Any:
        """Run a call to its end."""
        self.start(call, *arguments, **named)
        return self.finish()

    def _translated(self, argument: object) -> object:
        if isinstance(argument, Path) and argument.is_relative_to(self.root):
            return os.path.relpath(argument, self.root)
        return argument

    def kill(self) -> None:
        """End it at once, whatever it holds."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self._ours.close()

    close = kill


class Actors:
    """The users of one place, each started when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[tuple[int, int, tuple[int, ...]], Actor] = {}

    def get(self, uid: int, gid: int, groups: tuple[int, ...]) -> Actor:
        key = (uid, gid, groups)
        if key not in self._known:
            self._known[key] = Actor(self._root, uid, gid, groups)
        return self._known[key]

    def close(self) -> None:
        for actor in self._known.values():
            actor.kill()


def _close_all_but(kept: int) -> None:
    """Let go of what the parent has open: its locks, and its files without names."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor != kept:
            with contextlib.suppress(OSError):  # The descriptor of this very listing is gone.
                os.close(descriptor)


def _serve(pipe: Connection, root: Path, uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """Live as the child: run calls until the pipe ends."""
    try:
        _close_all_but(pipe.fileno())
        os.chdir(root)
        os.umask(0o022)
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        while True:
            call, arguments, named = pipe.recv()
            failure: Exception | None = None
            answer: object = None
            try:
                answer = call(*arguments, **named)
            except Exception as error:
                failure = error
            pipe.send((failure, answer))
    finally:
        os._exit(0)
