"""When the next call on a handle will be an fsync.

Databases and logs write a little and sync it, again and again, so many writes each time.  Owns the
guess, from what one handle did so far.  Refuses to know what is done with it.

A wrong guess costs one small stripe more than needed, so it takes a habit to make one, and one
interval that differs ends the habit.
"""

from __future__ import annotations

HABIT_SYNCS = 3
"""So many intervals in a row with equally many writes make a habit."""

MAX_WRITES = 16
"""Longer intervals count as none: what they bring is flushed when it is synced."""


class Rhythm:
    """The writes and syncs of one handle."""

    __slots__ = ("_alike", "_usual", "_writes")

    def __init__(self) -> None:
        self._writes = 0
        """Since the last sync."""
        self._usual = 0
        """Between the last two."""
        self._alike = 0
        """So many intervals were as long, one after another."""

    def wrote(self) -> bool:
        """Note a write; returns whether a sync is likely to be next."""
        self._writes += 1
        return self._alike >= HABIT_SYNCS and self._writes == self._usual

    def synced(self) -> None:
        """Note a sync."""
        writes, self._writes = self._writes, 0
        if not 0 < writes <= MAX_WRITES:
            self._alike = 0
        elif writes == self._usual:
            self._alike += 1
        else:
            self._alike = 1
        self._usual = writes
