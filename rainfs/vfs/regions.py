"""When a region of a file that is read here and there is worth fetching whole: ski rental.

A region costs a few times what a small read from a node does, but nobody knows how many more will
come.  Whoever rents until the rent paid equals the price, and then buys, never pays more than twice
what the best choice in hindsight would have cost.  Source: Karlin, Manasse, Rudolph, Sleator,
"Competitive snoopy caching", Algorithmica 3 (1988).

The same holds for a file: once reads of it have cost what all of it would, its regions are bought
as soon as they are touched; where regions are cheap already once they have cost a fourth of that,
since who has been all over a file is likely to go on so.  All of it together costs at most three
times the best choice.

Owns the rent paid for each region, the price, and what both are measured from.  Refuses to fetch
and to know clocks: callers pass durations.  Pure, no I/O.

Invariants:
- At most MAX_REGIONS regions are remembered, those read longest ago go first.
- A region that is rented again after it was bought (what was fetched was dropped before it was of
  use) costs more from then on, and so do all others for a while: a file far larger than memory is
  not fetched again and again.
"""

from __future__ import annotations

from collections import OrderedDict

from rainfs.model import KIB, MIB, InodeNumber

REGION_BYTES = 1 * MIB
"""What one get brings, and what the kernel asks for at once."""

SMALL_READ_BYTES = 64 * KIB
"""Longer reads are no rent: they bring much of their region themselves."""

MAX_REGIONS = 16_384
"""About 4 MiB of memory; 16 GiB of files."""

MAX_FILES = 1_024

FIRST_SMALL_S = 0.000_5
FIRST_WHOLE_S = 0.001_5
"""What a small get and a whole region cost before either was seen."""

CHEAP = 6.0
CHEAP_SHARE = 1 / 4
"""Up to so many small gets a region is cheap; the share of a file's price that is enough then."""

KEEPING_S = 0.001_5
"""What it costs to have a region kept by the kernel, beside fetching it: the orders, three or four
requests, and 256 pages that are filled."""

RUNS_AT_ONCE = 4
"""A region in more pieces than that waits even then: for one read for each so many pieces."""

DEARER, CHEAPER = 1.02, 1.06
"""How far one cost moves the usual one towards itself, as factors.  So it settles where a quarter
of all costs lies below: what a get costs when nothing else is in its way.  Stalls say nothing."""

MIN_COST_S = 0.000_01
"""Nothing costs less."""

GRACE_S = 0.25
"""For so long after a purchase reads of the region may still have been on their way."""

REGRET = 1.5
CONTENT = 0.98
MAX_DEAR = 64.0
"""How much dearer everything gets by a purchase in vain, how much of that one more purchase takes
back, and where it ends."""

MAX_DOUBLED = 16
"""A region gets twice as dear by each purchase, at most this often."""

REGRET_WITHIN_S = 10.0
"""What was bought longer ago has served its time, and regrets that long ago are forgotten."""


class _Region:
    __slots__ = ("bought", "bought_s", "in_use", "reads")

    def __init__(self) -> None:
        self.reads = 0
        self.bought = 0
        self.bought_s = 0.0
        self.in_use = False
        """Whether it was bought and not missed since."""


class _File:
    __slots__ = ("paid",)

    def __init__(self) -> None:
        self.paid = 0.0
        """What reads at random have cost since something that was bought was last missed, in small
        gets."""


class Regions:
    """The regions of all files that are read at random."""

    def __init__(self) -> None:
        self._regions: OrderedDict[tuple[InodeNumber, int], _Region] = OrderedDict()
        self._files: OrderedDict[InodeNumber, _File] = OrderedDict()
        self.small_s = FIRST_SMALL_S
        self.whole_s = FIRST_WHOLE_S
        """Of REGION_BYTES."""
        self.dear = 1.0
        self.bought = 0
        """Purchases so far."""
        self._regretted_s = 0.0

    def __len__(self) -> int:
        return len(self._regions)

    def saw_small(self, cost_s: float) -> None:
        """Learn from the cost of one small get."""
        self.small_s = _nearer(self.small_s, cost_s)

    def saw_whole(self, nbytes: int, cost_s: float) -> None:
        """Learn from the cost of one large get, for the bytes it brought."""
        self.whole_s = _nearer(self.whole_s, cost_s * REGION_BYTES / nbytes)

    def rent(self, inode: InodeNumber, offset: int, now_s: float) -> None:
        """Count a small get at `offset`."""
        region = self._region(inode, offset)
        file = self._file(inode)
        if region.bought and now_s - region.bought_s > REGRET_WITHIN_S:
            region.reads = region.bought = 0
            region.in_use = False
            file.paid = 0.0
        region.reads += 1
        file.paid += 1.0
        if region.in_use and now_s - region.bought_s > GRACE_S:
            region.in_use = False
            file.paid = 0.0
            self.dear = min(self.dear * REGRET, MAX_DEAR)
            self._regretted_s = now_s
        elif self.dear > 1.0 and now_s - self._regretted_s > REGRET_WITHIN_S:
            self.dear = 1.0

    def is_due(
        self, inode: InodeNumber, offset: int, nbytes: int, runs: int, file_bytes: int
    ) -> bool:
        """Whether the region around `offset` should be fetched whole.

        `nbytes` is its length, `runs` the number of gets that its bytes take.
        """
        region, file = self._region(inode, offset), self._file(inode)
        factor = self.dear * (1 << region.bought)
        whole = self._price(REGION_BYTES, 1) * factor
        share = CHEAP_SHARE if whole <= CHEAP else 1.0
        if file.paid < max(whole * file_bytes / REGION_BYTES * share, whole):
            return region.reads >= self._price(nbytes, runs) * factor
        return region.reads * RUNS_AT_ONCE >= runs

    def buy(self, inode: InodeNumber, offset: int, nbytes: int, runs: int, now_s: float) -> None:
        """Note that the region around `offset` is fetched whole."""
        self.dear = max(self.dear * CONTENT, 1.0)
        self.bought += 1
        region = self._region(inode, offset)
        region.bought = min(region.bought + 1, MAX_DOUBLED)
        region.bought_s = now_s
        region.in_use = True
        region.reads = 0
        self._file(inode).paid += self._price(nbytes, runs)

    def _price(self, nbytes: int, runs: int) -> float:
        """Return what bytes cost, in small gets; each get costs as much as a small one at least."""
        whole = max((self.whole_s + KEEPING_S) / self.small_s, 1.0)
        return runs + (whole - 1.0) * nbytes / REGION_BYTES

    def _region(self, inode: InodeNumber, offset: int) -> _Region:
        key = (inode, offset // REGION_BYTES)
        region = self._regions.get(key)
        if region is None:
            region = self._regions[key] = _Region()
            if len(self._regions) > MAX_REGIONS:
                self._regions.popitem(last=False)
        else:
            self._regions.move_to_end(key)
        return region

    def _file(self, inode: InodeNumber) -> _File:
        file = self._files.get(inode)
        if file is None:
            file = self._files[inode] = _File()
            if len(self._files) > MAX_FILES:
                self._files.popitem(last=False)
        else:
            self._files.move_to_end(inode)
        return file


def _nearer(usual_s: float, cost_s: float) -> float:
    return max(usual_s * DEARER if cost_s > usual_s else usual_s / CHEAPER, MIN_COST_S)
