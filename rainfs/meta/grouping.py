"""When the commits of a mount are written: together, a few times each GROUP_S.

Whoever holds the session lock commits in groups (`group`): a commit is seen by this engine at once
and written with others within GROUP_S, in order, all or none.  Owns the group's life.  Refuses to
know keys, values, and what makes a written group durable.

Invariants: from a group's first commit to its writing the database's write lock is held, so what
its transactions read stays true; between two groups other processes get their turn.  A group that
cannot be written stays: commits are refused until it is written, and for ever if somebody else
wrote meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import apsw
import trio

from rainfs.errors import MetadataError, NoSpace
from rainfs.meta.group import Group
from rainfs.meta.rows import write_rows

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP_S = 0.025
"""Longest time from a commit in a group to its writing."""

GROUP_KEYS = 4_096
"""A group with so many rows is written before the next transaction."""

UNGROUPED_S = 0.001
"""After a group, commits stand alone for so long: other processes find the database unlocked."""

RETRY_S = 1.0
"""Pause before a group that could not be written is tried again."""

OTHERS = "PRAGMA data_version"
"""A number that changes when another connection, of any process, has committed."""


class Grouping:
    """The groups of one connection; none before `start`."""

    def __init__(
        self,
        connection: apsw.Connection,
        cursor: apsw.Cursor,
        *,
        written: Callable[[], None],
        translate: Callable[[apsw.Error], MetadataError | NoSpace],
        wanted: Callable[[], bool],
    ) -> None:
        """`written` is told of each group with rows; `wanted`: another needs the write lock."""
        self._connection = connection
        self._cursor = cursor
        self._written = written
        self._translate = translate
        self._wanted = wanted
        self._started = False
        self._version = 0
        self._ungrouped_until_s = 0.0
        self._failed = False
        self._opened = 0
        self._timer_runs = False
        self.group: Group | None = None
        """What is gathered; while there is one, the connection is in a transaction."""
        self.broken: str | None = None
        """Why nothing can be committed any more."""

    def start(self) -> None:
        """From now on commits are gathered."""
        self._started = True

    def stop(self) -> None:
        """Commits stand alone again.  What cannot be written is kept, and logged."""
        self._started = False
        try:
            self.write()
        except (MetadataError, NoSpace) as error:
            log.error("the last commits of the session could not be written: %s", error)

    def make_room(self) -> None:
        """Write what is due before another transaction.  Raises: as `write`."""
        if self.group is not None and not self.has_room:
            self.write()

    @property
    def has_room(self) -> bool:
        """Whether the group takes another transaction."""
        group = self.group
        if group is None or self._failed or self.broken is not None:
            return False
        return len(group) < GROUP_KEYS and not self._wanted()

    def open(self) -> Group | None:
        """Make the transaction that was just begun for writing a group's first, if it is time."""
        if not self._started:
            return None
        now_s = trio.current_time()
        if now_s < self._ungrouped_until_s or self._wanted():
            return None
        self._version = self._others()
        self.group = Group(self._cursor.execute)
        self._opened += 1
        if not self._timer_runs:
            self._timer_runs = True
            trio.lowlevel.spawn_system_task(self._write_in_time)
        return self.group

    def write(self) -> None:
        """Write what is gathered.  Raises: NoSpace, MetadataError; then it is still gathered."""
        group = self.group
        if group is None:
            return
        if self.broken is not None:
            raise MetadataError(self.broken)
        try:
            write_rows(self._cursor, group.in_order())
            self._cursor.execute("COMMIT")
        except apsw.Error as error:
            self._failed = True
            if self._connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            self.keep_lock()
            raise self._translate(error) from error
        self.group = None
        self._failed = False
        self._ungrouped_until_s = trio.current_time() + UNGROUPED_S
        if group.rows:
            self._written()

    def keep_lock(self) -> None:
        """Take the write lock again if an error cost the group its transaction."""
        if self.group is None or self._connection.in_transaction:
            return
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
            kept = self._others() == self._version
        except apsw.Error:
            kept = False
        if not kept:
            self.broken = "commits were lost: they could not be written before another process's"

    def drop(self) -> None:
        """Forget what could not be written: the connection is about to close."""
        self._started = False
        self.group = None

    def _others(self) -> int:
        version: int = self._connection.execute(OTHERS).get
        return version

    async def _write_in_time(self) -> None:
        """Write each group when it is due; ends when no more come."""
        seen = 0
        try:
            while seen != self._opened:
                seen = self._opened
                await trio.sleep(RETRY_S if self._failed else GROUP_S)
                try:
                    self.write()
                except (MetadataError, NoSpace) as error:
                    log.error("commits could not be written yet: %s", error)
                    seen = 0 if self.broken is None else seen
        finally:
            self._timer_runs = False


class GroupRehearsal(Generic[T]):
    """See `rainfs.meta.engine.Rehearsal`: what was read holds until the group ends or grows."""

    __slots__ = ("_group", "_grouping", "_pending", "_version", "result")

    def __init__(
        self, grouping: Grouping, group: Group, pending: dict[bytes, bytes | None], result: T
    ) -> None:
        self._grouping = grouping
        self._group = group
        self._version = group.version
        self._pending = pending
        self.result = result

    def commit(self) -> bool:
        """See `Rehearsal.commit`."""
        grouping, group = self._grouping, self._group
        if grouping.group is not group or group.version != self._version or not grouping.has_room:
            return False
        if self._pending:
            group.add(self._pending)
        return True


class GroupingLock:
    """A session lock that ends the grouping before it goes."""

    def __init__(self, release: Callable[[], None], grouping: Grouping) -> None:
        self._release = release
        self._grouping = grouping

    def release(self) -> None:
        """Give it up, with everything written.  Idempotent."""
        self._grouping.stop()
        self._release()
