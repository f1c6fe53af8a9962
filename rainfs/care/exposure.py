"""How exposed the volume's stripes are, given the nodes that answer.

Owns the judgement of one stripe and the count over all of them.  Refuses to know how nodes are
asked: the caller says which are present.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from rainfs.meta.engine import Engine
from rainfs.meta.stripes import scan_stripes
from rainfs.model import NO_NODE, Code, NodeNumber, Placement, StripeId

SURVEY_PAGE = 500
"""Stripes looked at in one snapshot."""


class Standing(enum.Enum):
    """What a stripe could still lose."""

    HEALTHY = "healthy"
    """Every shard lies on a node that answers."""
    DEGRADED = "degraded"
    """Readable, with less redundancy than it should have."""
    LOST = "lost"
    """Unreadable with the nodes that answer."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """A count of stripes by standing."""

    healthy: int
    degraded: int
    lost: int

    @property
    def total(self) -> int:
        """All stripes."""
        return self.healthy + self.degraded + self.lost


def judge(code: Code, placement: Placement, present: Collection[NodeNumber]) -> Standing:
    """Return the standing of a stripe of `code` placed so, with these nodes present."""
    there = sum(node != NO_NODE and node in present for node in placement.nodes)
    if there >= code.n:
        return Standing.HEALTHY
    return Standing.DEGRADED if there >= code.k else Standing.LOST


async def survey(engine: Engine, present: Collection[NodeNumber]) -> Exposure:
    """Judge every stripe of the volume, a page at a time."""
    counts = dict.fromkeys(Standing, 0)
    after = StripeId(0)
    while rows := await scan_stripes(engine, after, SURVEY_PAGE):
        for row in rows:
            counts[judge(row.stripe.code, row.placement, present)] += 1
        after = rows[-1].id
    return Exposure(
        healthy=counts[Standing.HEALTHY],
        degraded=counts[Standing.DEGRADED],
        lost=counts[Standing.LOST],
    )
