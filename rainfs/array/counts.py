"""What reading has cost a mount since its start.

Owns the figures.  Refuses to judge them: somebody who wonders why reads are slow does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ReadCounts:
    """Totals; they only grow."""

    gets: int = 0
    """Gets that were answered."""
    get_bytes: int = 0
    """Bytes that these brought."""
    in_line: int = 0
    """Gets among them that took no turn of the scheduler."""
    direct: int = 0
    """Gets among them that were read from the storage file of a node on this host."""
    raced: int = 0
    """Gets that were late and raced by a reconstruction."""
    gathered: int = 0
    """Ranges asked of several nodes, because the shard's own was late, silent or without it."""

    def got(self, nbytes: int) -> None:
        """Count one answer."""
        self.gets += 1
        self.get_bytes += nbytes

    def read_directly(self, nbytes: int) -> None:
        """Count one answer that took no node."""
        self.direct += 1
        self.got(nbytes)
