"""When to try a node again: jittered exponential back-off after failed connections.

Pure: time and randomness are handed in.  Invariant: the wait doubles with each failure in a row up
to MAX_WAIT_S, and one success ends it.
"""

from __future__ import annotations

from random import Random

FIRST_WAIT_S = 0.05
MAX_WAIT_S = 3.0
_MAX_DOUBLINGS = 16


class Reach:
    """What is known of the way to one node, shared by the connections to it."""

    __slots__ = ("_failures", "_random", "_retry_at_s", "reason")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._failures = 0
        self._retry_at_s = 0.0
        self.reason = ""

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    def may_try(self, now_s: float) -> bool:
        """Whether the next attempt is due."""
        return not self._failures or now_s >= self._retry_at_s

    def failed(self, now_s: float, reason: str) -> None:
        """Record a failed attempt, or a connection that had to be given up."""
        wait_s = min(FIRST_WAIT_S * 2 ** min(self._failures, _MAX_DOUBLINGS), MAX_WAIT_S)
        self._failures += 1
        self._retry_at_s = now_s + wait_s * self._random.uniform(0.5, 1.0)
        self.reason = reason

    def succeeded(self) -> None:
        """Record that the node has answered."""
        self._failures = 0
        self.reason = ""
