"""Whether a small read may wait for the disk on the event loop itself.

Owns the usual time of small reads of one disk.  Refuses to know who reads.  A hop to a thread and
back costs more than a quick disk takes, and a wait in line stops everything else: so it depends on
what the disk has lately been.
"""

from __future__ import annotations

from rainfs.model import KIB

INLINE_READ_BYTES = 64 * KIB
"""Reads up to this long are tried without a thread first."""

INLINE_READ_S = 0.004
"""A lone small read waits for the disk without a thread while reads take no longer than this."""

QUICK_READ_S = 0.000_5
"""While reads take no longer than this, any small read does: a thread costs more than the wait."""

MAX_COUNTED_READ_S = 2 * INLINE_READ_S
"""A read counts as no longer than this, so that one stall (of the disk, or of a busy machine's
scheduler) does not send those after it to threads, which makes a busy machine busier."""

SMOOTHING = 0.2
"""Weight of the newest read in the usual time of one."""


class ReadPace:
    """How quick small reads of one disk are."""

    __slots__ = ("_usual_s",)

    def __init__(self) -> None:
        self._usual_s = MAX_COUNTED_READ_S

    def is_quick(self, *, alone: bool) -> bool:
        """Whether the next small read may wait in line; `alone`: no other is under way."""
        return self._usual_s <= (INLINE_READ_S if alone else QUICK_READ_S)

    def took(self, seconds: float) -> None:
        """Take in how long a small read took, in line or in a thread."""
        self._usual_s += (min(seconds, MAX_COUNTED_READ_S) - self._usual_s) * SMOOTHING
