"""What a store does with its past when it is opened.

Owns the rebuilding of the free-space map and the replay of the journal.  Refuses to know clients.

Invariants: when `recover` returns, the index holds everything, a new lap has begun durably, and
every shard that is listed was either acknowledged durable or has been verified.  Rows that claim
the same bytes are settled by reading them: at most one can verify.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rainfs.errors import ShardCorrupt
from rainfs.memory import page_buffer
from rainfs.model import ShardKey
from rainfs.store.allocator import Allocator
from rainfs.store.catalog import Catalog
from rainfs.store.datafile import DataFile, verify
from rainfs.store.disk import Disk
from rainfs.store.journal import Entry, Journal, Record
from rainfs.store.opening import Opened
from rainfs.store.rows import Row, pack_key, pack_row, unpack_key, unpack_row

log = logging.getLogger(__name__)


def recover(
    opened: Opened, disk: Disk, data: DataFile, journal: Journal
) -> tuple[Allocator, Catalog]:
    """Replay the journal and return the free-space map and the catalog.

    Raises: OSError, NodeFull, NodeFailing, StoreDamaged.
    """
    records = journal.replay(opened.lap)
    if records:
        _fold(opened, disk, data, _replayed(records, data))
    allocator = Allocator(opened.block.data_offset, opened.block.capacity_bytes)
    spans: list[tuple[int, int, ShardKey]] = []
    count = 0
    top: ShardKey | None = None
    for packed, stored in opened.index.scan():
        count += 1
        try:
            top = unpack_key(packed)
            row = unpack_row(packed, stored)
            spans.append((row.offset, row.length, top))
        except ShardCorrupt as error:
            log.warning("%s: key %s: %s", opened.directory, packed.hex(), error)
    spans.sort()
    bad = _settle_overlaps(opened, data, spans)
    if bad:
        count -= len(bad)
        opened.lap += 1
        opened.index.apply(opened.block.node, opened.lap, [], [pack_key(key) for key in bad])
    dropped = set(bad)
    allocator.load([(at, length) for at, length, key in spans if key not in dropped])
    return allocator, Catalog(opened.index, count, top)


def _replayed(records: list[Record], data: DataFile) -> dict[ShardKey, Entry]:
    """Return the last entry of each key, without puts whose data did not reach the disk."""
    durable = max((record.durable for record in records), default=0)
    changes: dict[ShardKey, Entry] = {}
    for record in records:
        for entry in record.entries:
            row = entry.row
            unsure = row is not None and entry.payload is None and record.number >= durable
            if unsure and row is not None and not _verifies(row, data):
                # The power went before the sync that this shard's answer was waiting for.
                log.info("dropping shard %x.%d: never durable", *entry.key)
                continue
            changes[entry.key] = entry
    return changes


def _fold(opened: Opened, disk: Disk, data: DataFile, changes: dict[ShardKey, Entry]) -> None:
    """Write journalled shards to their places, then let the index take over the lap."""
    unplaced = [
        (entry.row, entry.payload)
        for entry in changes.values()
        if entry.row is not None and entry.payload is not None
    ]
    data.place(sorted(unplaced, key=lambda pair: pair[0].offset))
    disk.fdatasync(opened.fd)
    puts = [
        (pack_key(key), pack_row(pack_key(key), entry.row))
        for key, entry in sorted(changes.items())
        if entry.row is not None
    ]
    deletes = [pack_key(key) for key, entry in changes.items() if entry.row is None]
    opened.lap += 1
    opened.index.apply(opened.block.node, opened.lap, puts, deletes)


def _settle_overlaps(
    opened: Opened, data: DataFile, spans: Iterable[tuple[int, int, ShardKey]]
) -> list[ShardKey]:
    """Return the keys to drop so that no two rows share bytes."""
    bad: list[ShardKey] = []
    holder: tuple[int, ShardKey] | None = None
    for offset, length, key in spans:
        stop = offset + length
        if offset < opened.block.data_offset:
            bad.append(key)
            continue
        if holder is not None and offset < holder[0]:
            if _shard_verifies(opened, data, holder[1]):
                bad.append(key)
                continue
            bad.append(holder[1])
        holder = (stop, key)
    for key in bad:
        log.warning("%s: shard %x.%d claims bytes of another", opened.directory, *key)
    return bad


def _shard_verifies(opened: Opened, data: DataFile, key: ShardKey) -> bool:
    packed = pack_key(key)
    stored = opened.index.get(packed)
    return stored is not None and _verifies(unpack_row(packed, stored), data)


def _verifies(row: Row, data: DataFile) -> bool:
    found = page_buffer(row.length)
    try:
        data.read(found, row.offset, nowait=False)
    except OSError:
        return False
    return verify(row, 0, found)
