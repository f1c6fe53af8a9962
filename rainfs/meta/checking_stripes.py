"""Holding the rows of stripes against each other and against the extents.

Owns live bytes, half rows, dead stripes, tombstones, and what it means when extents name a stripe
that cannot be used: their bytes are lost, which is reported and never made worse.  A stripe that
nothing references and whose nodes are not known goes without a tombstone; its shards are garbage.
"""

from __future__ import annotations

from msgspec.structs import replace

from rainfs.errors import MetadataForeign
from rainfs.meta import keys
from rainfs.meta.checking_findings import Edit, Finding, Findings, Kind, Repair
from rainfs.meta.checking_scratch import Scratch, unsigned
from rainfs.meta.engine import Reader
from rainfs.meta.records import PLACEMENTS, STATES, StripeState
from rainfs.model import Placement, StripeId

_ALL = """
    SELECT w.stripe, coalesce(l.bytes, 0), s.sound, s.born, s.n, p.sound, p.live, p.born, p.n,
        t.stripe IS NOT NULL
    FROM (SELECT stripe FROM stripe UNION SELECT stripe FROM state UNION SELECT stripe FROM live)
        w
    LEFT JOIN live l ON l.stripe = w.stripe LEFT JOIN stripe s ON s.stripe = w.stripe
    LEFT JOIN state p ON p.stripe = w.stripe LEFT JOIN tomb t ON t.stripe = w.stripe"""


class StripePass:
    """One run over all stripes, after the pass over all rows."""

    def __init__(self, reader: Reader, scratch: Scratch, findings: Findings) -> None:
        self._reader = reader
        self._scratch = scratch
        self._findings = findings

    async def run(self) -> None:
        """Look at every stripe that any row speaks of."""
        self._scratch.execute("CREATE TABLE live (stripe INTEGER PRIMARY KEY, bytes INT)")
        self._scratch.execute(
            "INSERT INTO live SELECT stripe, sum(len) FROM extent GROUP BY stripe"
        )
        for row in self._scratch.rows(_ALL):
            stripe = StripeId(unsigned(row[0]))
            live, s_sound, s_born, s_n, p_sound, p_live, p_born, p_n, buried = row[1:]
            if not live:
                await self._dead(stripe, has_tombstone=bool(buried))
            elif not s_sound:
                self._lost(stripe, live, "gone" if s_sound is None else "unreadable")
            elif p_sound is None or p_live == p_born == -1:
                what = f"stripe {stripe:#x} does not say where its shards are"
                self._findings.add(Finding(Kind.PLACEMENT, what, stripe=stripe, repair=Repair.MEND))
            else:
                if not p_sound or p_n != s_n:
                    what = f"stripe {stripe:#x} has its shards on impossible nodes"
                    self._findings.add(
                        Finding(Kind.PLACEMENT, what, stripe=stripe, repair=Repair.MEND)
                    )
                if (p_live, p_born) != (live, s_born):
                    await self._miscounted(stripe, live, s_born)
                if buried:
                    await self._buried_alive(stripe)

    async def _dead(self, stripe: StripeId, *, has_tombstone: bool) -> None:
        edits = []
        nodes = None
        for key in (keys.stripe_key(stripe), keys.state_key(stripe)):
            raw = await self._reader.get(key)
            if raw is None:
                continue
            edits.append(Edit(key, raw, None))
            if key[:1] == b"P":
                nodes = _nodes_in(raw)
        if nodes is not None and not has_tombstone:
            key = keys.tombstone_key(stripe)
            old = await self._reader.get(key)
            edits.append(Edit(key, old, PLACEMENTS.encode(nodes)))
        what = f"stripe {stripe:#x} is not referenced and not given up"
        self._findings.add(Finding(Kind.STRIPE_ROWS, what, stripe=stripe, edits=tuple(edits)))

    def _lost(self, stripe: StripeId, live: int, why: str) -> None:
        what = f"stripe {stripe:#x}, with {live} bytes of files, is {why}"
        self._findings.add(Finding(Kind.STRIPE_LOST, what, stripe=stripe, repair=Repair.NONE))

    async def _miscounted(self, stripe: StripeId, live: int, born: int) -> None:
        key = keys.state_key(stripe)
        raw = await self._reader.get(key)
        assert raw is not None
        old = STATES.decode(raw)
        new: StripeState = replace(old, live_bytes=live, born_bytes=born)
        what = (
            f"stripe {stripe:#x}: {old.live_bytes} live bytes of {old.born_bytes}, "
            f"should be {live} of {born}"
        )
        edits = (Edit(key, raw, STATES.encode(new)),)
        self._findings.add(Finding(Kind.LIVE_BYTES, what, stripe=stripe, edits=edits))

    async def _buried_alive(self, stripe: StripeId) -> None:
        key = keys.tombstone_key(stripe)
        edits = (Edit(key, await self._reader.get(key), None),)
        what = f"stripe {stripe:#x} is referenced and about to be deleted"
        self._findings.add(Finding(Kind.TOMBSTONE, what, stripe=stripe, edits=edits))


def _nodes_in(raw: bytes) -> Placement | None:
    try:
        return Placement(tuple(n for n in STATES.decode(raw).nodes))
    except MetadataForeign:
        return None
