"""Holding what nodes store against what the metadata places there.

Owns the order that makes it exact beside a mount.  A page of stripes is read first, the nodes list
their shards of it second: what is missing then was deleted meanwhile, which a second look at the
row tells, or is lost.  For garbage it is the other way round: listed first, sessions and stripes
read afterwards (see `garbage`).  Only what the second look confirms is reported.  Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from rainfs.array.about import encode_abouts
from rainfs.array.backend import Backend
from rainfs.care.garbage import Settled
from rainfs.care.mending import Site
from rainfs.errors import MetadataForeign, ShardCorrupt, ShardMissing, StorageError
from rainfs.meta import keys
from rainfs.meta.checking_extents import stripe_faults
from rainfs.meta.checking_findings import Finding, Findings, Kind, Repair
from rainfs.meta.checking_paths import note_hurt
from rainfs.meta.checking_scratch import Scratch, signed, unsigned
from rainfs.meta.engine import Engine, Reader
from rainfs.meta.records import STATES, STRIPES
from rainfs.meta.sessions import list_sessions
from rainfs.model import (
    MAX_SHARDS_PER_STRIPE,
    NO_NODE,
    CodeKind,
    InodeNumber,
    Node,
    NodeNumber,
    ShardInfo,
    ShardKey,
    Stripe,
    StripeId,
    VolumeId,
)

STRIPE_PAGE = 128
"""Stripes whose shards are compared at a time."""

LIST_PAGE = 2_000
STATS_AT_ONCE = 8
"""Descriptions that one node is asked for at a time."""

Progress = Callable[[int], None]
"""Called with how many stripes were looked at."""


@dataclass(slots=True)
class ShardReport:
    """What was found besides findings."""

    checked: int = 0
    """Shards that are what they should be, or are reported."""
    unchecked: int = 0
    """Shards on nodes that did not answer."""
    degraded: int = 0
    """Sound stripes that were written with less redundancy than their code has."""
    garbage: int = 0
    """Shards that no stripe owns: `rainfs gc` deletes them."""
    garbage_bytes: int = 0
    unreachable: dict[NodeNumber, str] = field(default_factory=dict)
    """Nodes that did not answer, and why."""


class _Row(NamedTuple):
    id: StripeId
    stripe: Stripe
    nodes: tuple[NodeNumber, ...]
    abouts: Sequence[bytes]


async def reach(
    volume: VolumeId, nodes: Mapping[NodeNumber, Node], backends: Mapping[NodeNumber, Backend]
) -> tuple[dict[NodeNumber, Site], dict[NodeNumber, str]]:
    """Ask all nodes; return those that answer as who they should be, and why the others do not."""
    sites: dict[NodeNumber, Site] = {}
    silent: dict[NodeNumber, str] = {}

    async def ask(number: NodeNumber, node: Node) -> None:
        backend = backends.get(number)
        if backend is None:
            silent[number] = "it was not asked"
            return
        try:
            health = await backend.health()
        except StorageError as error:
            silent[number] = str(error)
            return
        if health.uuid != node.uuid or health.volume != volume:
            silent[number] = f"another node answers at {node.url}"
            return
        sites[number] = Site(node, backend, health)

    async with trio.open_nursery() as nursery:
        for number, node in nodes.items():
            nursery.start_soon(ask, number, node)
    return sites, silent


class ShardCheck:
    """One pass over all stripes."""

    def __init__(
        self,
        engine: Engine,
        scratch: Scratch,
        findings: Findings,
        sites: Mapping[NodeNumber, Site],
        silent: Mapping[NodeNumber, str],
        members: Collection[NodeNumber],
        *,
        newest_epoch: int,
        progress: Progress = lambda stripes: None,
    ) -> None:
        """`members` are all nodes that the volume has, also those whose rows cannot be read.

        Sessions up to `newest_epoch` have ended, unless they are seen to be alive.
        """
        self._engine = engine
        self._scratch = scratch
        self._findings = findings
        self._sites = dict(sites)
        self._members = frozenset(members)
        self._settled = Settled(newest_epoch)
        self._progress = progress
        self._seen = 0
        self.report = ShardReport(unreachable=dict(silent))

    async def run(self) -> ShardReport:
        """Look at everything."""
        after: ShardKey | None = None
        while True:
            page = await self._page(None if after is None else after.stripe)
            last = StripeId(keys.MAX_NUMBER) if page.last is None else page.last
            await self._compare(after, last, page.rows)
            self._seen += len(page.rows)
            self._progress(self._seen)
            if page.last is None:
                return self.report
            after = ShardKey(last, _MAX_SHARD)

    # --- Metadata ---------------------------------------------------------------------------

    async def _page(self, after: StripeId | None) -> _Page:
        async def body(reader: Reader) -> _Page:
            start, stop = keys.table(b"S") if after is None else keys.table_after(b"S", after)
            found = await reader.scan(start, stop, limit=STRIPE_PAGE)
            rows = []
            for key, raw in found:
                if len(key) != _KEY_BYTES:
                    continue
                stripe = StripeId(keys.number_of(key))
                row = self._usable(stripe, raw, await reader.get(keys.state_key(stripe)))
                if row is not None:
                    rows.append(row)
            full = len(found) == STRIPE_PAGE and len(found[-1][0]) >= _KEY_BYTES
            return _Page(rows, StripeId(keys.number_of(found[-1][0])) if full else None)

        return await self._engine.read(body)

    def _usable(self, stripe: StripeId, raw: bytes, raw_state: bytes | None) -> _Row | None:
        """Decode; what the check of metadata reports already is left out."""
        try:
            row = STRIPES.decode(raw)
            nodes = STATES.decode(raw_state).nodes if raw_state is not None else ()
        except MetadataForeign:
            return None
        placed = [node for node in nodes if node != NO_NODE]
        sound = len(nodes) == row.code.n and len(set(placed)) == len(placed)
        if not sound or stripe_faults(row) is not None or not self._members.issuperset(placed):
            return None
        return _Row(stripe, row, nodes, encode_abouts(row))

    async def _placements(
        self, stripes: Collection[StripeId]
    ) -> dict[StripeId, tuple[NodeNumber, ...] | None]:
        """Read placements again; None where a stripe is known and its placement is not."""

        async def body(reader: Reader) -> dict[StripeId, tuple[NodeNumber, ...] | None]:
            found: dict[StripeId, tuple[NodeNumber, ...] | None] = {}
            for stripe in stripes:
                raw = await reader.get(keys.state_key(stripe))
                rest = (keys.stripe_key(stripe), keys.tombstone_key(stripe))
                if raw is None and all([await reader.get(key) is None for key in rest]):
                    continue
                try:
                    found[stripe] = STATES.decode(raw).nodes if raw is not None else None
                except MetadataForeign:
                    found[stripe] = None
            return found

        return await self._engine.read(body)

    # --- Nodes ------------------------------------------------------------------------------

    async def _compare(self, after: ShardKey | None, last: StripeId, rows: Sequence[_Row]) -> None:
        """Compare the stripes up to `last` with what the nodes list behind `after`."""
        faults: dict[StripeId, dict[int, str]] = {}

        async def look(number: NodeNumber, site: Site) -> None:
            wanted = {
                ShardKey(row.id, shard): row
                for row in rows
                for shard, node in enumerate(row.nodes)
                if node == number
            }
            try:
                for key, why in await self._look_at(number, site.backend, after, last, wanted):
                    faults.setdefault(key.stripe, {})[key.shard] = why
            except StorageError as error:
                self.report.unreachable[number] = str(error)
                self._sites.pop(number, None)

        async with trio.open_nursery() as nursery:
            for number, site in list(self._sites.items()):
                nursery.start_soon(look, number, site)
        if faults:
            now = await self._placements(faults.keys())
            rows_now = [row for row in rows if row.id not in faults or now.get(row.id) == row.nodes]
        else:
            rows_now = list(rows)
        for row in rows_now:
            self._judge(row, faults.get(row.id, {}))

    async def _look_at(
        self,
        number: NodeNumber,
        backend: Backend,
        after: ShardKey | None,
        last: StripeId,
        wanted: Mapping[ShardKey, _Row],
    ) -> list[tuple[ShardKey, str]]:
        """Return what is wrong with the wanted shards of one node."""
        held: dict[ShardKey, int] = {}
        at = after
        while page := await backend.list(at, min(LIST_PAGE, len(wanted) + _SPARE)):
            at = page[-1].key
            inside = [info for info in page if info.key.stripe <= last]
            held.update((info.key, info.length) for info in inside if info.key in wanted)
            await self._count_garbage(number, [i for i in inside if i.key not in wanted])
            if len(inside) < len(page):
                break
        wrong = [(key, "missing") for key in wanted if key not in held]
        sound: list[ShardKey] = []
        for key, length in held.items():
            if length != wanted[key].stripe.shard_bytes:
                wrong.append((key, f"{length} bytes long"))
            else:
                sound.append(key)
        return wrong + await _strangers(backend, sound, wanted)

    async def _count_garbage(self, number: NodeNumber, infos: Sequence[ShardInfo]) -> None:
        if not infos:
            return
        try:
            self._settled.update(await list_sessions(self._engine))
        except MetadataForeign:
            return  # Nothing counts as settled beside a session that cannot be read.
        owners = await self._placements({info.key.stripe for info in infos})
        for info in infos:
            stripe, shard = info.key
            nodes = owners.get(stripe, ())
            owned = nodes is None or (shard < len(nodes) and nodes[shard] == number)
            if not owned and self._settled(stripe):
                self.report.garbage += 1
                self.report.garbage_bytes += info.length

    # --- Judgement --------------------------------------------------------------------------

    def _judge(self, row: _Row, faults: Mapping[int, str]) -> None:
        code = row.stripe.code
        nowhere = {shard for shard, node in enumerate(row.nodes) if node == NO_NODE}
        silent = {
            shard
            for shard, node in enumerate(row.nodes)
            if shard not in nowhere and node not in self._sites and shard not in faults
        }
        good = set(range(code.n)) - nowhere - silent - faults.keys()
        self.report.unchecked += len(silent)
        self.report.checked += len(good) + len(faults)
        name = f"stripe {row.id:#x} ({code})"
        if len(good) >= code.k:
            self.report.degraded += bool(nowhere) and not faults
            if faults:
                listed = ", ".join(
                    f"{shard} on node {row.nodes[shard]} is {why}"
                    for shard, why in sorted(faults.items())
                )
                self._report(Kind.SHARDS, f"{name}: shard {listed}", row.id, Repair.MEND)
            return
        if len(good) + len(silent) >= code.k:
            what = f"{name}: {len(good)} of {code.k} needed shards can be had until nodes return"
            self._report(Kind.UNREADABLE, what, row.id, Repair.MEND if faults else Repair.NONE)
        else:
            what = f"{name}: {len(good)} of {code.k} needed shards are left"
            self._report(Kind.STRIPE_LOST, what, row.id, Repair.MEND)
        self._note_files(row, good)

    def _report(self, kind: Kind, what: str, stripe: StripeId, repair: Repair) -> None:
        self._findings.add(Finding(kind, what, stripe=stripe, repair=repair))

    def _note_files(self, row: _Row, good: Collection[int]) -> None:
        """Note the files with a block in a shard that is not there."""
        blocks = row.stripe.blocks
        mirrored = row.stripe.code.kind is CodeKind.MIRROR
        query = "SELECT ino, block FROM extent WHERE stripe=?"
        for ino, index in list(self._scratch.rows(query, signed(row.id))):
            if mirrored or index >= len(blocks) or blocks[index].shard not in good:
                note_hurt(self._scratch, InodeNumber(unsigned(ino)))


async def _strangers(
    backend: Backend, sound: Sequence[ShardKey], wanted: Mapping[ShardKey, _Row]
) -> list[tuple[ShardKey, str]]:
    """Return the shards that describe themselves as something else."""
    wrong: list[tuple[ShardKey, str]] = []
    limit = trio.CapacityLimiter(STATS_AT_ONCE)
    failures: list[StorageError] = []

    async def ask(key: ShardKey) -> None:
        async with limit:
            if failures:
                return
            try:
                info = await backend.stat(key)
            except ShardMissing:
                wrong.append((key, "missing"))
            except ShardCorrupt:
                wrong.append((key, "unreadable"))
            except StorageError as error:
                failures.append(error)
            else:
                if info.about != wanted[key].abouts[key.shard]:
                    wrong.append((key, "another one by its description"))

    async with trio.open_nursery() as nursery:
        for key in sound:
            nursery.start_soon(ask, key)
    if failures:
        raise failures[0]
    return wrong


class _Page(NamedTuple):
    rows: list[_Row]
    last: StripeId | None
    """The last stripe of the page; None if there is no further one."""


_KEY_BYTES = 9
_MAX_SHARD = MAX_SHARDS_PER_STRIPE - 1

_SPARE = 64
"""Shards of others that a listing may meet before it needs a second call."""
