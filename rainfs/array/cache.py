"""Decoded blocks in memory, least recently used out first.

Owns what is kept and what is dropped.  Refuses to know how blocks are fetched.  Blocks that came
in one buffer are one run: they are counted, and dropped, together, so that the bound holds for the
memory that is really held.  Entries are valid for ever, because stripes are immutable.

Invariant: the runs' bytes add up to at most `max_bytes`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from rainfs.array.backend import Buffer
from rainfs.model import StripeId

BlockKey = tuple[StripeId, int]
"""Stripe and index in its block table."""


class _Run:
    __slots__ = ("blocks", "nbytes", "stripe")

    def __init__(self, stripe: StripeId, blocks: dict[int, Buffer], nbytes: int) -> None:
        self.stripe = stripe
        self.blocks = blocks
        self.nbytes = nbytes


class BlockCache:
    """The blocks, by stripe and index."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._runs: OrderedDict[_Run, None] = OrderedDict()
        self._by_stripe: dict[StripeId, dict[int, _Run]] = {}
        self.nbytes = 0

    def get(self, stripe: StripeId, block: int) -> Buffer | None:
        """Return the decoded block, or None; a hit makes its run the most recently used."""
        held = self._by_stripe.get(stripe)
        if held is None:
            return None
        run = held.get(block)
        if run is None:
            return None
        self._runs.move_to_end(run)
        return run.blocks[block]

    def has(self, stripe: StripeId, block: int) -> bool:
        """Whether the block is here; says nothing about its use."""
        return block in self._by_stripe.get(stripe, ())

    def put(self, stripe: StripeId, blocks: Mapping[int, Buffer], nbytes: int) -> None:
        """Keep `blocks`, which share `nbytes` of memory.  Blocks that are here stay as they are."""
        held = self._by_stripe.get(stripe, {})
        new = {index: data for index, data in blocks.items() if index not in held}
        if not new or nbytes > self._max_bytes:
            return
        run = _Run(stripe, new, nbytes)
        self._runs[run] = None
        self.nbytes += nbytes
        held = self._by_stripe.setdefault(stripe, {})
        for index in new:
            held[index] = run
        while self.nbytes > self._max_bytes:
            self._drop(next(iter(self._runs)))

    def forget(self, stripe: StripeId) -> None:
        """Drop all blocks of a stripe."""
        for run in set(self._by_stripe.get(stripe, {}).values()):
            self._drop(run)

    def _drop(self, run: _Run) -> None:
        del self._runs[run]
        self.nbytes -= run.nbytes
        held = self._by_stripe[run.stripe]
        for index in run.blocks:
            del held[index]
        if not held:
            del self._by_stripe[run.stripe]
