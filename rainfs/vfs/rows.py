"""Stripe rows that readers have asked for: least recently used out first, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict

from rainfs.meta.extents import Extents
from rainfs.model import StripeId, StripeView

ROW_COST_BYTES = 512
ROW_BLOCK_COST_BYTES = 160
"""Memory that a cached stripe row takes, and each of its blocks."""


class StripeRows:
    """Stripe rows by id."""

    def __init__(self, extents: Extents, max_bytes: int) -> None:
        self._extents = extents
        self._max_bytes = max_bytes
        self._bytes = 0
        self._rows: OrderedDict[StripeId, StripeView] = OrderedDict()

    def peek(self, stripe: StripeId) -> StripeView | None:
        """Return the row if it is in memory."""
        row = self._rows.get(stripe)
        if row is not None:
            self._rows.move_to_end(stripe)
        return row

    async def get(self, stripe: StripeId) -> StripeView | None:
        """Return the row, or None when the stripe is no more."""
        row = self.peek(stripe)
        return row if row is not None else await self.reload(stripe)

    async def reload(self, stripe: StripeId) -> StripeView | None:
        """Read the row again."""
        row = await self._extents.view(stripe)
        old = self._rows.pop(stripe, None)
        if old is not None:
            self._bytes -= _cost(old)
        if row is not None:
            self._rows[stripe] = row
            self._bytes += _cost(row)
            while self._bytes > self._max_bytes and len(self._rows) > 1:
                self._bytes -= _cost(self._rows.popitem(last=False)[1])
        return row


def _cost(view: StripeView) -> int:
    return ROW_COST_BYTES + ROW_BLOCK_COST_BYTES * len(view.stripe.blocks)
