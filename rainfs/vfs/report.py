"""What a mount says of itself: memory held for writers, and nodes as it sees them.

Owns the shape.  Refuses to know who asks: `mount` shows it as an extended attribute of the root.
"""

from __future__ import annotations

import msgspec

from rainfs.array.counts import ReadCounts


class MountReport(msgspec.Struct, frozen=True):
    """A mount at one moment."""

    dirty_bytes: int
    """Memory that holds bytes which are not committed yet."""
    dirty_peak_bytes: int
    """The most that it ever was."""
    dirty_limit_bytes: int
    """What it is kept below: writers wait."""
    nodes: dict[str, str]
    """State of each node by name, as this mount sees it."""
    reads: ReadCounts
    """What reads from nodes have cost since the mount began."""
    regions: int
    """Parts of files that were fetched whole since then, because they were read at random."""


def encode(report: MountReport) -> bytes:
    """Return the report as JSON."""
    return msgspec.json.encode(report)
