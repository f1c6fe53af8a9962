"""Tasks of the array that outlive the call that began them.

Owns their cancel scopes: everything spawned here ends when `aclose` does, whatever the owner's
nursery is used for besides.  Refuses to know what they do.  A task that fails unexpectedly is
logged and ends alone; it never takes the owner's nursery, and the mount, with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

Arguments = TypeVarTuple("Arguments")

_log = logging.getLogger(__name__)


class Background:
    """A set of tasks inside somebody's nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self._idle = trio.Event()
        self._idle.set()
        self._closed = False

    @property
    def running(self) -> int:
        """Number of tasks that have not ended."""
        return len(self._scopes)

    def spawn(
        self, task: Callable[[*Arguments], Awaitable[object]], *arguments: *Arguments
    ) -> trio.CancelScope:
        """Start `task(*arguments)`; cancel the scope to end it early."""
        scope = trio.CancelScope()
        if self._closed:
            scope.cancel()
            return scope
        if not self._scopes:
            self._idle = trio.Event()
        self._scopes.add(scope)

        async def run() -> None:
            try:
                with scope:
                    await task(*arguments)
            except Exception:
                _log.exception("background task %s failed", getattr(task, "__qualname__", task))
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._idle.set()

        self._nursery.start_soon(run)
        return scope

    async def aclose(self) -> None:
        """Cancel everything and wait until it has ended."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel()
        await self._idle.wait()
