"""How long calls to one node usually take.

Owns moving averages for each kind of call and the question when one is late.  Refuses to know
clocks: callers pass durations.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from statistics import median

from rainfs.model import KIB

LARGE_CALL_BYTES = 128 * KIB
"""Calls that move more than this are averaged apart from small ones."""

AVERAGE_WEIGHT = 1 / 8
"""Weight of a new sample in the moving average."""

LATE_FACTOR = 3.0
"""A get is late after this many times the usual latency."""

SMALL_GET_FLOOR_S = 0.030
LARGE_GET_FLOOR_S = 0.100
"""No get is late before this."""

PUT_FLOOR_S = 1.5
"""No put is late before this: a durable put waits for disks, which stall now and then."""


class Call(enum.IntEnum):
    """Kinds of calls whose latencies differ."""

    SMALL_GET = 0
    LARGE_GET = 1
    SMALL_PUT = 2
    LARGE_PUT = 3


FLOOR_S = {
    Call.SMALL_GET: SMALL_GET_FLOOR_S,
    Call.LARGE_GET: LARGE_GET_FLOOR_S,
    Call.SMALL_PUT: PUT_FLOOR_S,
    Call.LARGE_PUT: PUT_FLOOR_S,
}


def get_kind(nbytes: int) -> Call:
    """Return the kind of a get of `nbytes`."""
    return Call.LARGE_GET if nbytes > LARGE_CALL_BYTES else Call.SMALL_GET


def put_kind(nbytes: int) -> Call:
    """Return the kind of a put of `nbytes`."""
    return Call.LARGE_PUT if nbytes > LARGE_CALL_BYTES else Call.SMALL_PUT


class Latency:
    """One node's moving averages, in seconds; negative while there is no sample."""

    __slots__ = ("usual_s",)

    def __init__(self) -> None:
        self.usual_s = [-1.0] * len(Call)

    def observe(self, kind: Call, seconds: float) -> None:
        """Take one call's duration into the average."""
        usual = self.usual_s[kind]
        self.usual_s[kind] = usual + (seconds - usual) * AVERAGE_WEIGHT if usual >= 0 else seconds


def late_after_s(latencies: Iterable[Latency]) -> tuple[float, ...]:
    """Return for each kind of call after how many seconds it is late.

    The median of the nodes decides, not the node's own average: a node that is always slow is
    always gone round.
    """
    known = list(latencies)
    limits: list[float] = []
    for kind in Call:
        samples = [latency.usual_s[kind] for latency in known if latency.usual_s[kind] >= 0]
        usual = median(samples) if samples else 0.0
        limits.append(max(FLOOR_S[kind], LATE_FACTOR * usual))
    return tuple(limits)
